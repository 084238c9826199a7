"use strict";
const page = JSON.parse(document.getElementById("page-data").textContent);
const CONFIG = {displayModeBar: false, responsive: true, showTips: false};

function draw(name, traces, layout) {
  return Plotly.react(name, traces, layout, CONFIG);
}

for (const [name, figure] of Object.entries(page.figures)) draw(name, figure.data, figure.layout);

/* A plot is as wide as the window that it was drawn in; paper is narrower. */
const PAPER_WIDTH = 640;
const plots = () => document.querySelectorAll(".js-plotly-plot");
const widths = change => plots().forEach(plot => Plotly.relayout(plot, change));
window.addEventListener("beforeprint", () => widths({width: PAPER_WIDTH}));
window.addEventListener("afterprint", () => widths({width: null, autosize: true}));
