"use strict";
/* Rows as {value, text}: by value where the column has any, else by text; rows that lack it stay at the end. */
function ordered(rows, descending) {
  const numeric = rows.some(row => row.value !== null);
  const blank = row => row.value === null && (numeric || row.text === "" || row.text === "\u2013");
  const compare = (a, b) => numeric ? a.value - b.value : a.text.localeCompare(b.text, "en", {numeric: true});
  return rows.slice().sort((a, b) => blank(a) || blank(b)
    ? blank(a) - blank(b) : (descending ? -1 : 1) * compare(a, b));
}
