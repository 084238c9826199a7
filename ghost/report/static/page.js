"use strict";
const page = JSON.parse(document.getElementById("page-data").textContent);
const CONFIG = {displayModeBar: false, responsive: true, showTips: false};

function draw(name, traces, layout) {
  return Plotly.react(name, traces, layout, CONFIG);
}

for (const [name, figure] of Object.entries(page.figures)) draw(name, figure.data, figure.layout);

function sortBy(table, column, heading) {
  const descending = heading.getAttribute("aria-sort") === "ascending";
  const body = table.tBodies[0];
  const rows = Array.from(body.rows, row => {
    const cell = row.cells[column], value = cell.dataset.value;
    return {row, value: value === undefined ? null : Number(value), text: cell.textContent};
  });
  for (const other of heading.parentNode.cells) other.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  body.append(...ordered(rows, descending).map(item => item.row));
}

for (const table of document.querySelectorAll("table.sortable")) {
  Array.from(table.tHead.rows[0].cells).forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => sortBy(table, column, heading));
  });
}

/* A plot is as wide as the window that it was drawn in; paper is narrower. */
const PAPER_WIDTH = 640;
const plots = () => document.querySelectorAll(".js-plotly-plot");
const widths = change => plots().forEach(plot => Plotly.relayout(plot, change));
window.addEventListener("beforeprint", () => widths({width: PAPER_WIDTH}));
window.addEventListener("afterprint", () => widths({width: null, autosize: true}));
