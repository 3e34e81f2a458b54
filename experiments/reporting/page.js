// What the page of a report does: draws figures when they come into view, sorts and filters tables, hands out files.
"use strict";

const figures = JSON.parse(document.getElementById("figures").textContent);
const files = JSON.parse(document.getElementById("files").textContent);

const AXIS = {
  showline: true, linecolor: "#77777d", ticks: "outside", tickcolor: "#77777d", gridcolor: "#e8e8ec",
  zeroline: false, automargin: true,
};
const LAYOUT = {
  font: { family: "system-ui, Helvetica Neue, Arial, sans-serif", size: 14, color: "#1d1d1f" },
  margin: { l: 70, r: 20, t: 16, b: 60 }, paper_bgcolor: "#fff", plot_bgcolor: "#fff", hovermode: "closest",
  hoverlabel: { bgcolor: "#fff", bordercolor: "#77777d", font: { color: "#1d1d1f" }, namelength: -1, align: "left" },
  showlegend: true,
};
const CONFIG = {
  displaylogo: false, responsive: true, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
};
const NARROW = 640; // pixels below which a legend stands under its figure

function draw(figure) {
  if (figure.dataset.drawn) return;
  figure.dataset.drawn = "yes";
  const { data, layout } = figures[figure.dataset.figure];
  const canvas = figure.querySelector(".canvas");
  const below = canvas.clientWidth < NARROW;
  const legend = { itemsizing: "constant", ...(below ? { orientation: "h", y: -0.25 } : { x: 1.02, y: 1 }) };
  Plotly.newPlot(canvas, data, {
    ...LAYOUT, legend, xaxis: { ...AXIS, ...layout.xaxis }, yaxis: { ...AXIS, ...layout.yaxis },
    barmode: layout.barmode,
  }, CONFIG);
}

// A figure is drawn shortly before it is seen; hidden ones are not seen.
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) {
      watcher.unobserve(entry.target);
      draw(entry.target);
    }
  }
}, { rootMargin: "300px" });
document.querySelectorAll("figure[data-figure]").forEach((figure) => watcher.observe(figure));

for (const choice of document.querySelectorAll(".choice")) {
  const select = choice.querySelector("select");
  const show = () => choice.querySelectorAll("figure").forEach((figure) => {
    figure.hidden = figure.dataset.figure !== select.value;
  });
  select.addEventListener("change", show);
  show(); // browsers keep what was chosen when a page is loaded again
}

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).blob();
}

// The files are in the page itself, so that it is enough alone.
document.addEventListener("click", async (event) => {
  const link = event.target.closest("a[data-file]");
  if (!link) return;
  event.preventDefault();
  const name = link.dataset.file;
  const kind = name.endsWith(".svg") ? "image/svg+xml" : "text/csv";
  const address = URL.createObjectURL(new Blob([await unpack(files[name])], { type: kind }));
  const download = Object.assign(document.createElement("a"), { href: address, download: name });
  download.click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
});

for (const box of document.querySelectorAll(".table")) {
  const rows = [...box.querySelectorAll("tbody tr")];
  const filters = box.querySelector("form.filters");
  if (filters) filterBy(filters, rows);
  box.querySelectorAll("thead button").forEach((button, column) => {
    button.addEventListener("click", () => sortBy(box, rows, button.closest("th"), column));
  });
}

function filterBy(filters, rows) {
  const search = filters.querySelector("input");
  const selects = [...filters.querySelectorAll("select")];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const apply = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, i) => {
      const chosen = selects.every((select) =>
        !select.value || row.cells[select.dataset.column].firstChild.textContent === select.value);
      row.hidden = !(chosen && words.every((word) => texts[i].includes(word)));
      shown += !row.hidden;
    });
    filters.querySelector("output").textContent = shown < rows.length ? `${shown} of ${rows.length} rows` : "";
  };
  filters.addEventListener("input", apply);
  filters.addEventListener("submit", (event) => event.preventDefault());
  apply();
}

function sortBy(box, rows, heading, column) {
  const falling = heading.getAttribute("aria-sort") === "ascending";
  box.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
  heading.setAttribute("aria-sort", falling ? "descending" : "ascending");
  const key = (row) => {
    const cell = row.cells[column];
    return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent;
  };
  // Numbers come before words, which are mostly dashes, whichever way is up.
  const compare = (a, b) => {
    const [first, second] = [key(a), key(b)];
    if (typeof first !== typeof second) return typeof first === "number" ? -1 : 1;
    const order = typeof first === "number" ? first - second : first.localeCompare(second, "en", { numeric: true });
    return falling ? -order : order;
  };
  box.querySelector("tbody").append(...[...rows].sort(compare));
}
