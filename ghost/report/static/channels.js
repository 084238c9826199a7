"use strict";
const packed = page.channels, size = packed.groups * packed.d_state;
const columns = Object.fromEntries(Object.entries(packed.columns).map(([name, column]) => [name, unpack(column)]));
const bits = Object.fromEntries(Object.entries(packed.bits).map(([name, text]) => [name, unpackBits(text)]));
if (columns.norm_b && columns.norm_c) columns.norm = columns.norm_b.map((b, i) => b * columns.norm_c[i]);
const ranked = packed.layers.map((_, at) => ranking(at * size, (at + 1) * size, bits.kept, columns.saliency));
const figure = value => value ? value.toPrecision(3) : "0";

function channelName(i) {
  const group = Math.floor(i % size / packed.d_state), channel = `${page.unit} ${i % packed.d_state}`;
  return packed.groups > 1 ? `group ${group}, ${channel}` : channel;
}

function everything(i) {
  const lines = Object.entries(page.names).filter(([name]) => columns[name]);
  return [`layer ${packed.layers[Math.floor(i / size)]}, ${channelName(i)}: ${bits.kept[i] ? "kept" : "dropped"}`]
    .concat(lines.map(([name, words]) => `${words}: ${figure(columns[name][i])}`)).join("<br>");
}

/* A log scale has no zero: what is too small is a cross at the foot. */
const cross = colour => ({symbol: "x-thin", size: 7, color: colour, line: {color: colour, width: 1.5}});

function spectrumOf(layer, at) {
  const order = ranked[at], largest = columns.saliency[order.reduce(
    (best, i) => columns.saliency[i] > columns.saliency[best] ? i : best)] || 1;
  const share = i => columns.saliency[i] / largest, small = i => share(i) < page.floor;
  const colour = page.colours[at];
  const trace = (fate, chosen, more) => {
    const first = order.indexOf(chosen[0]) + 1;
    return {
      type: "scatter", x0: first, dx: 1, customdata: chosen.map(channelName), meta: at,
      hovertemplate: `layer ${layer}, %{customdata}: ${fate}<br>${more.words}<extra></extra>`, ...more.look(chosen),
    };
  };
  const line = fate => ({
    words: `saliency %{y:.3p} of the layer's largest, ${figure(largest)}`,
    look: chosen => ({
      y: chosen.map(share), mode: chosen.length > 1 ? "lines" : "markers", marker: {color: colour},
      line: {color: colour, width: fate === "kept" ? 1.8 : 1.1}, opacity: fate === "kept" ? 0.95 : 0.5,
    }),
  });
  const crosses = {
    words: "saliency too small for the scale",
    look: chosen => ({y: chosen.map(() => page.foot), mode: "markers", marker: cross(colour)}),
  };
  return [["kept", 1], ["dropped", 0]].flatMap(([fate, bit]) => {
    const mine = order.filter(i => bits.kept[i] === bit);
    const tall = mine.filter(i => !small(i)), flat = mine.filter(small);
    return [...tall.length ? [trace(fate, tall, line(fate))] : [], ...flat.length ? [trace(fate, flat, crosses)] : []];
  });
}

function drawSpectrum() {
  const {data, layout} = page.layouts.spectrum;
  draw("spectrum", packed.layers.flatMap(spectrumOf).concat(data), layout);
}

function points(name, chosen, x, y, foot, marker) {
  return {
    type: "scatter", mode: "markers", name, x: chosen.map(x), y: chosen.map(i => y(i) || foot),
    marker: {...marker, symbol: chosen.map(i => y(i) ? "circle" : "x-thin-open")},
    text: chosen.map(everything), hovertemplate: "%{text}<extra></extra>",
  };
}

function smallest(values) {
  return values.reduce((least, value) => value > 0 && value < least ? value : least, Infinity);
}

const pickLayer = document.getElementById("pick-layer"), pickFigure = document.getElementById("pick-figure");

function drawChannels() {
  const at = Number(pickLayer.value), name = pickFigure.value, order = ranked[at];
  const foot = smallest(order.map(i => columns[name][i])) / 2;
  const rank = new Map(order.map((i, place) => [i, place + 1]));
  const part = (fate, bit) => points(fate, order.filter(i => bits.kept[i] === bit), i => rank.get(i),
    i => columns[name][i], Number.isFinite(foot) ? foot : 1, {color: page.fates[fate], size: 6, opacity: 0.85});
  const layout = structuredClone(page.layouts.channels.layout);
  layout.yaxis.title.text = page.names[name];
  Object.assign(layout.yaxis, page.scales[name][at]);
  draw("channels", [part("kept", 1), part("dropped", 0)], layout);
}

const MOST_POINTS = 8000;
const pickGap = document.getElementById("pick-gap");

function drawGap() {
  const every = pickGap.value === "all", first = every ? 0 : Number(pickGap.value) * size;
  const count = every ? packed.layers.length * size : size, step = Math.ceil(count / MOST_POINTS);
  const shown = Array.from({length: Math.ceil(count / step)}, (_, i) => first + i * step);
  const layout = structuredClone(page.layouts.gap.layout), at = every ? packed.layers.length : Number(pickGap.value);
  Object.assign(layout.xaxis, page.scales.norm[at]);
  Object.assign(layout.yaxis, page.scales.energy[at]);
  const foot = smallest(columns.energy.subarray(first, first + count)) / 2;
  draw("gap", page.quadrants.map(({name, by_norm, by_energy, colour}) => points(
    name, shown.filter(i => bits.by_norm[i] === by_norm && bits.by_energy[i] === by_energy && columns.norm[i] > 0),
    i => columns.norm[i], i => columns.energy[i], foot, {color: colour, size: 5, opacity: 0.65})),
    layout);
}

function pick(at) {
  pickLayer.value = String(at);
  drawChannels();
}

drawSpectrum();
drawChannels();
pickLayer.addEventListener("change", drawChannels);
pickFigure.addEventListener("change", drawChannels);
document.getElementById("spectrum").on("plotly_click", event => pick(event.points[0].data.meta ?? 0));
for (const name of Object.keys(page.figures)) {
  document.getElementById(name).on("plotly_click", event => pick(event.points[0].pointIndex));
}
if (pickGap) {
  drawGap();
  pickGap.addEventListener("change", drawGap);
}
