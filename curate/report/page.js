// a cut to try: counts the rows at or above it from the bins of the histogram
for (const slider of document.querySelectorAll("input[data-counts]")) {
  const counts = slider.dataset.counts.split(",").map(Number);
  const edges = slider.dataset.edges.split(",").map(Number);
  const total = counts.reduce((a, b) => a + b, 0);
  const tell = () => {
    const at = Number(slider.value);
    const above = counts.slice(at).reduce((a, b) => a + b, 0);
    const share = total ? (100 * above / total).toFixed(1) : "0";
    slider.nextElementSibling.textContent =
      `≥ ${Number(edges[at].toPrecision(4))}: ${above.toLocaleString("en")} of ${total.toLocaleString("en")} (${share}%)`;
  };
  slider.addEventListener("input", tell);
  tell();
}
