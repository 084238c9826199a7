"use strict";
/* Rows as {value, text}: by value where the column has any, else by text; rows that lack it stay at the end. */
function ordered(rows, descending) {
  const numeric = rows.some(row => row.value !== null);
  const blank = row => row.value === null && (numeric || row.text === "" || row.text === "\u2013");
  const compare = (a, b) => numeric ? a.value - b.value : a.text.localeCompare(b.text, "en", {numeric: true});
  return rows.slice().sort((a, b) => blank(a) || blank(b)
    ? blank(a) - blank(b) : (descending ? -1 : 1) * compare(a, b));
}

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
