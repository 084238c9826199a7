"use strict";
function bytes(text) {
  return Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
}

function unpack(column) {
  const raw = bytes(column.data), values = new Float64Array(raw.length / 2);
  for (let i = 0; i < values.length; i++) {
    const q = raw[2 * i] | raw[2 * i + 1] << 8;
    values[i] = q ? Math.exp(column.low + (q - 1) * column.step) : 0;
  }
  return values;
}

function unpackBits(text) {
  const packed = bytes(text), bits = new Uint8Array(8 * packed.length);
  for (let i = 0; i < bits.length; i++) bits[i] = packed[i >> 3] >> (7 - i % 8) & 1;
  return bits;
}

/* Channels first to last, from most to least salient: kept ones, then dropped ones. */
function ranking(first, last, kept, saliency) {
  const order = Array.from({length: last - first}, (_, i) => first + i);
  return order.sort((a, b) => kept[b] - kept[a] || saliency[b] - saliency[a] || a - b);
}
