// the threshold slider: counts from the bins of one column, the verdicts of the other steps, the pictures nearest to it
(() => {
  const told = data.thresholds;
  if (!told) return;
  const NEAR = 10; // pictures on each side
  const at = (id) => document.getElementById(`try-${id}`);
  const slider = at("slider"), pick = at("column"), bins = at("bins");
  const rules = [...at("rules").querySelectorAll("input")], sides = [...document.getElementsByName("try-side")];
  const figures = new Map();
  for (const figure of document.querySelectorAll("main figure[data-uid]")) {
    if (!figures.has(figure.dataset.uid)) figures.set(figure.dataset.uid, figure);
  }
  const samples = data.samples.filter((sample) => figures.has(sample.uid));
  const short = (value) => Number(value.toPrecision(4)).toLocaleString("en", { maximumSignificantDigits: 4, useGrouping: value >= 10000 });
  const whole = (value) => value.toLocaleString("en");
  const signed = (value) => `${value < 0 ? "−" : "+"}${whole(Math.abs(value))}`;
  let column, above;

  // position p of the slider lies between bin p - 1 and bin p; the last bin of a row of counts holds the missing
  const ends = () => (above ? [0, column.edges.length] : [1, column.edges.length + 1]);
  const open = (position) => (above ? position === 0 : position === column.edges.length + 1); // no threshold at all
  const over = (position) => column.over && position === column.cut + 1; // the recipe's own: strictly over its number
  const name = (position) => {
    if (open(position)) return "no threshold";
    const sign = above ? (over(position) ? ">" : "≥") : (over(position) ? "≤" : "<");
    return `${column.column} ${sign} ${short(column.edges[position - 1])}`;
  };
  const active = () => new Set(rules.filter((box) => box.checked && Number(box.value) !== column.step).map((box) => Number(box.value)));
  const passes = (fails, ticked) => !fails.some((step) => ticked.has(step));
  const inside = (bin, position) => (above ? bin >= position : bin < position);

  const count = (position, ticked) => {
    const last = column.edges.length + 1;
    let kept = 0, others = 0;
    told.masks.forEach((fails, mask) => {
      if (!passes(fails, ticked)) return;
      column.counts[mask].forEach((rows, bin) => {
        others += rows;
        if (bin === last ? open(position) || column.keeps_missing : inside(bin, position)) kept += rows;
      });
    });
    return { kept, others };
  };
  const isKept = (value, position) => {
    if (open(position)) return true;
    if (value === null) return column.keeps_missing;
    const edge = column.edges[position - 1];
    return above === (over(position) ? value > edge : value >= edge);
  };

  const draw = (position, ticked) => {
    const last = column.edges.length + 1;
    const free = new Array(last).fill(0), held = new Array(last).fill(0);
    told.masks.forEach((fails, mask) => {
      const into = passes(fails, ticked) ? free : held;
      for (let bin = 0; bin < last; bin++) into[bin] += column.counts[mask][bin];
    });
    const most = Math.max(1, ...free.map((rows, bin) => rows + held[bin]));
    bins.replaceChildren(...free.map((rows, bin) => {
      const bar = document.createElement("i");
      const kind = inside(bin, position) || open(position) ? "kept" : "dropped";
      for (const [part, height] of [["others", held[bin]], [kind, rows]]) {
        const piece = document.createElement("b");
        piece.className = part;
        piece.style.height = `${100 * height / most}%`;
        bar.append(piece);
      }
      return bar;
    }));
  };
  const axis = () => {
    const edges = column.edges, marks = [];
    const step = Math.max(1, Math.ceil(edges.length / Math.max(2, Math.min(8, at("axis").clientWidth / 70))));
    for (let edge = 0; edge < edges.length; edge += step) marks.push([edge, short(edges[edge]), "tick"]);
    if (column.cut !== null) marks.push([column.cut, "recipe", "recipe"]);
    at("axis").replaceChildren(...marks.map(([edge, words, kind]) => {
      const mark = document.createElement("span");
      mark.className = kind;
      mark.textContent = words;
      mark.style.left = `${100 * (edge + 1) / (edges.length + 1)}%`;
      return mark;
    }));
  };

  const near = (position, ticked) => {
    const index = told.columns.indexOf(column);
    const there = samples.filter((sample) => passes(sample.fails, ticked) && sample.values[index] !== null);
    there.sort((a, b) => a.values[index] - b.values[index] || (a.uid < b.uid ? -1 : 1));
    for (const kept of [false, true]) {
      const side = there.filter((sample) => isKept(sample.values[index], position) === kept);
      const chosen = kept === above ? side.slice(0, NEAR) : side.slice(-NEAR);
      const id = kept ? "kept" : "dropped";
      at(`${id}-note`).textContent = side.length ? `${chosen.length} of ${whole(side.length)} pictures at hand` : "no picture at hand";
      at(id).replaceChildren(...chosen.map((sample) => {
        const item = document.createElement("li"), copy = figures.get(sample.uid).cloneNode(true);
        copy.className = `picture is-${kept ? "kept" : "dropped"}`;
        copy.querySelector("figcaption b")?.remove();
        const value = document.createElement("b");
        value.textContent = short(sample.values[index]);
        copy.querySelector("figcaption").prepend(value);
        item.append(copy);
        return item;
      }));
    }
  };

  const tell = () => {
    const [first, final] = ends();
    const position = Math.min(final, Math.max(first, Number(slider.value)));
    slider.value = position;
    const ticked = active();
    const { kept, others } = count(position, ticked);
    const start = recipe();
    const before = count(start.position, new Set(told.rules.map((_, step) => step).filter((step) => step !== column.step)), start).kept;
    const change = start.above === above ? (kept === before ? " As the recipe has it." : ` ${signed(kept - before)} against the recipe.`) : "";
    const share = others ? ` (${(100 * kept / others).toFixed(1)}%)` : "";
    at("told").textContent = `${name(position)}: ${whole(kept)} kept of ${whole(others)}${share}.${change}`;
    slider.setAttribute("aria-valuetext", `${name(position)}, ${whole(kept)} kept`);
    draw(position, ticked);
    near(position, ticked);
  };
  const recipe = () => ({ above: column.above, position: column.cut !== null ? column.cut + 1 : column.above ? 0 : column.edges.length + 1 });
  const reset = () => {
    const start = recipe();
    above = start.above;
    sides.forEach((side) => { side.checked = (side.value === "above") === above; });
    rules.forEach((box) => {
      box.checked = true;
      box.parentElement.hidden = Number(box.value) === column.step;
    });
    slider.max = column.edges.length + 1;
    slider.value = start.position;
    axis();
    tell();
  };
  const choose = () => { column = told.columns[pick.value]; reset(); };

  document.getElementById("explorer").hidden = false;
  const wanted = told.columns.findIndex((one) => one.column === data.column);
  pick.value = Math.max(0, wanted);
  pick.addEventListener("change", choose);
  slider.addEventListener("input", tell);
  at("reset").addEventListener("click", reset);
  rules.forEach((box) => box.addEventListener("change", tell));
  sides.forEach((side) => side.addEventListener("change", () => {
    const was = above;
    above = side.value === "above";
    if (was !== above && Number(slider.value) === (was ? 0 : column.edges.length + 1)) slider.value = above ? 0 : column.edges.length + 1;
    tell();
  }));
  window.addEventListener("resize", axis);
  choose();
})();
