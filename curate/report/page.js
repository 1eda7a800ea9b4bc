// pictures that stand on the page twice, and the veil over those that may not be safe
const data = JSON.parse(document.getElementById("data").textContent);
for (const image of document.querySelectorAll("img[data-same]")) {
  image.src = document.querySelector(`img[data-nth="${image.dataset.same}"]`).src;
}
const unveil = (button, shown) => {
  button.setAttribute("aria-pressed", shown);
  button.querySelector("span").textContent = shown ? "Blur" : "Show";
};
document.addEventListener("click", (event) => {
  const veil = event.target.closest(".veil");
  if (veil) unveil(veil, veil.getAttribute("aria-pressed") !== "true");
});
const veils = document.querySelectorAll(".veil");
if (veils.length) {
  const every = document.createElement("button");
  every.type = "button";
  every.id = "unveil";
  const name = (shown) => { every.textContent = `${shown ? "Blur" : "Show"} the ${veils.length} blurred pictures`; };
  name(false);
  every.setAttribute("aria-pressed", "false");
  every.addEventListener("click", () => {
    const shown = every.getAttribute("aria-pressed") !== "true";
    every.setAttribute("aria-pressed", shown);
    document.querySelectorAll(".veil").forEach((veil) => unveil(veil, shown));
    name(shown);
  });
  document.querySelector("header").append(every);
}

// on paper nothing can be opened: what is folded is open there, and closed again afterwards
const opened = new Set();
window.addEventListener("beforeprint", () => {
  for (const fold of document.querySelectorAll("details:not([open])")) { fold.open = true; opened.add(fold); }
});
window.addEventListener("afterprint", () => {
  for (const fold of opened) fold.open = false;
  opened.clear();
});
