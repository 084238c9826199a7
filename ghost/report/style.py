"""The summary page's style sheet: system fonts, light and dark by the reader's preference, one column on a phone."""

CSS = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --line: #e1e4ea; --text: #1b1f27; --muted: #5f6775;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #121419; --card: #1b1e25; --line: #2e333d; --text: #e8eaef; --muted: #9aa2b1;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 20px 56px; }
h1 { margin: 0; font-size: 1.75rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 0 0 6px; font-size: 1.15rem; }
p { margin: 0; max-width: 90ch; }
.muted, .note { color: var(--muted); }
.note { font-size: 0.875rem; margin-top: 8px; }
header p { margin-top: 6px; overflow-wrap: anywhere; }
section, .tiles li { background: var(--card); border: 1px solid var(--line); border-radius: 12px; }
section { margin-top: 20px; padding: 20px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(235px, 1fr)); gap: 12px; margin: 24px 0 0;
  padding: 0; list-style: none; }
.tiles li { padding: 16px 18px; }
.tiles .label, .tiles .detail { display: block; color: var(--muted); font-size: 0.875rem; }
.tiles .figure { display: block; margin: 2px 0; font-size: 1.5rem; font-weight: 650; line-height: 1.3;
  font-variant-numeric: tabular-nums; letter-spacing: -0.02em; }
.tiles .before, .tiles .after { display: inline-block; white-space: pre; }
.tiles .before { color: var(--muted); font-weight: 400; }
.verdict { margin-top: 20px; }
.verdict .lead { font-size: 1.3rem; font-weight: 650; line-height: 1.3; overflow-wrap: anywhere; }
.verdict .reasons { margin-top: 4px; }
.picks { display: flex; flex-wrap: wrap; gap: 8px 20px; margin: 12px 0 4px; max-width: none; }
.pick { color: var(--muted); font-size: 0.9rem; }
select { max-width: 100%; padding: 4px 8px; border: 1px solid var(--line); border-radius: 8px; background: var(--page);
  color: var(--text); font: inherit; }
.plot { min-width: 0; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(340px, 100%), 1fr)); gap: 12px; }
.scroll { overflow-x: auto; margin-top: 12px; }
table { width: 100%; border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
caption { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
th, td { padding: 5px 10px; text-align: left; border-bottom: 1px solid var(--line); }
th { color: var(--muted); font-weight: 500; white-space: normal; vertical-align: bottom; }
.number { text-align: right; }
td.number { white-space: nowrap; }
td:not(.number) { min-width: 9ch; }
th button { padding: 2px 0; border: 0; background: none; color: inherit; font: inherit; text-align: inherit;
  cursor: pointer; }
th button::after { content: "\\00a0\\2195"; opacity: 0.45; }
th[aria-sort="ascending"] button::after { content: "\\00a0\\2191"; opacity: 1; }
th[aria-sort="descending"] button::after { content: "\\00a0\\2193"; opacity: 1; }
:focus-visible { outline: 2px solid #2f86d8; outline-offset: 2px; }
tbody tr:last-child td { border-bottom: 0; }
th:first-child, td:first-child { padding-left: 0; }
th:last-child, td:last-child { padding-right: 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 6px 24px; margin: 12px 0 0; font-size: 0.9rem; }
dt { color: var(--muted); }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 560px) {
  main { padding: 24px 12px 40px; }
  section { padding: 16px 14px; }
  .tiles { grid-template-columns: 1fr 1fr; gap: 8px; }
  .tiles li { padding: 12px; }
  .tiles .label, .tiles .detail { font-size: 0.8rem; }
  .tiles .before { display: block; font-size: 1rem; }
  table { font-size: 0.8rem; }
  caption { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
th, td { padding: 5px; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: 10px; }
}
@media print {
  :root { color-scheme: light; --page: #ffffff; --card: #ffffff; --line: #d5d8de; --text: #000000; --muted: #444a55; }
  main { max-width: none; padding: 0; }
  section, .tiles li { border-radius: 0; break-inside: avoid; }
  .scroll { overflow: visible; }
  .tiles { grid-template-columns: repeat(4, 1fr); }
  .pair { grid-template-columns: 1fr; }
  th button::after { content: none; }
}
"""
