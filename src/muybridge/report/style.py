"""How the pages look: light, dark and on paper, from 320 pixels on. No font and no picture is fetched."""

STYLE = """
:root { color-scheme: light dark; --paper:#fbfaf8; --card:#fff; --ink:#1d1f24; --muted:#5d626d; --line:#e3e1dc;
  --track:#ecebe7; --accent:#2457c5; --s1:#2457c5; --s2:#c8641b; --s3:#178468; --s4:#9b3fa5; --s5:#6b7280; --s6:#b01e4a;
  --right:#178468; --wrong:#d64e3c; --full:#fff; }
@media (prefers-color-scheme: dark) { :root { --paper:#15171b; --card:#1d2025; --ink:#e9e8e4; --muted:#a2a7b1;
  --line:#31353d; --track:#2c3037; --accent:#8db2ff; --s1:#7ea8ff; --s2:#f0a05c; --s3:#55c7a7; --s4:#d58ade;
  --s5:#a2a7b1; --s6:#f0799b; --right:#3fb592; --wrong:#ef7463; --full:#101215; } }
* { box-sizing: border-box; }
body { margin:0; background:var(--paper); color:var(--ink); font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
  "Helvetica Neue",sans-serif; font-variant-numeric:tabular-nums; overflow-wrap:anywhere; }
main { max-width:1120px; margin:0 auto; padding:28px 20px 60px; }
header p { margin:2px 0; color:var(--muted); }
h1 { font-size:1.75rem; line-height:1.2; margin:0 0 4px; letter-spacing:-.015em; }
h2 { font-size:1.15rem; margin:40px 0 10px; padding-top:14px; border-top:1px solid var(--line); }
h3 { font-size:.95rem; margin:20px 0 8px; }
a { color:var(--accent); }
code { font:.88em/1.4 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace; background:var(--track); border-radius:4px;
  padding:1px 5px; }
pre { background:var(--card); border:1px solid var(--line); border-radius:8px; padding:10px 14px; overflow-x:auto; }
pre code { background:none; padding:0; white-space:pre-wrap; }
.note { background:var(--card); border:1px solid var(--line); border-left:3px solid var(--s2); border-radius:6px;
  padding:8px 14px; margin:12px 0; }
.tiles { display:grid; grid-template-columns:repeat(auto-fit,minmax(140px,1fr)); gap:10px; margin:20px 0 6px; }
.tile { background:var(--card); border:1px solid var(--line); border-radius:10px; padding:10px 14px; }
.tile span { display:block; color:var(--muted); font-size:.8rem; }
.tile b { font-size:1.45rem; font-weight:600; letter-spacing:-.01em; line-height:1.3; }
.tile small { display:block; color:var(--muted); font-size:.76rem; line-height:1.35; }
.charts { display:grid; grid-template-columns:repeat(auto-fit,minmax(min(100%,330px),1fr)); gap:14px; }
figure { margin:0; } .chart { background:var(--card); border:1px solid var(--line); border-radius:10px;
  padding:12px 14px 8px; }
figcaption { display:flex; flex-wrap:wrap; gap:2px 14px; font-size:.84rem; margin-bottom:6px; }
figcaption strong { flex-basis:100%; font-size:.9rem; } figcaption span { color:var(--muted); }
figcaption b { color:var(--ink); font-weight:600; }
figcaption i, .swatch { display:inline-block; width:10px; height:10px; border-radius:3px; margin-right:5px; }
svg { display:block; width:100%; height:auto; }
svg text { font:11px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif; fill:var(--ink); }
svg .tick { fill:var(--muted); } svg .grid { stroke:var(--line); stroke-width:1; }
svg .line { fill:none; stroke-width:1.8; stroke-linejoin:round; }
.matrix { width:100%; margin:6px 0; } img.matrix { max-width:680px; height:auto; display:block;
  image-rendering:pixelated; border:1px solid var(--line); background:var(--card); }
.matrix .empty { fill:var(--track); fill-opacity:.55; } .matrix .right, .swatch.right { fill:var(--right);
  background:var(--right); }
.matrix .wrong, .swatch.wrong { fill:var(--wrong); background:var(--wrong); }
.matrix .full { fill:var(--full); font-weight:600; }
.legend { color:var(--muted); font-size:.84rem; margin:4px 0; } .legend .swatch { margin-left:10px; }
.legend .swatch:first-child { margin-left:0; } .legend .swatch.interval { width:16px; height:3px; background:var(--ink);
  vertical-align:3px; }
.scroll { overflow-x:auto; }
table { border-collapse:collapse; width:100%; font-size:.88rem; } th { text-align:left; color:var(--muted);
  font-weight:500; vertical-align:bottom; }
th, td { padding:5px 12px 5px 0; border-bottom:1px solid var(--line); vertical-align:top; overflow-wrap:normal; }
td:first-child { overflow-wrap:anywhere; min-width:8em; } tr:last-child td { border-bottom:0; }
.n { text-align:right; white-space:nowrap; } td.n:last-child, th.n:last-child { padding-right:2px; }
.wide td { min-width:7em; } .wide td, .wide th { overflow-wrap:anywhere; }
.bars td { vertical-align:middle; } .bars td:nth-child(1) { width:26%; }
.bars td:nth-child(2) { width:46%; min-width:90px; }
.bar { position:relative; height:12px; background:var(--track); border-radius:3px; }
.bar i { position:absolute; inset:0 auto 0 0; background:var(--s1); border-radius:3px; opacity:.85; }
.bar b { position:absolute; top:5px; height:2px; background:var(--ink); opacity:.75; }
.cards { display:grid; grid-template-columns:repeat(auto-fill,minmax(min(100%,330px),1fr)); gap:12px; }
.card { background:var(--card); border:1px solid var(--line); border-radius:10px; overflow:hidden; }
.card img { display:block; width:100%; height:auto; background:#000; } .card .none { padding:26px 14px;
  color:var(--muted); background:var(--track); font-size:.84rem; }
.card div.text { padding:8px 12px 10px; font-size:.86rem; line-height:1.4; } .card p { margin:0; }
.card .file { color:var(--muted); font-size:.78rem; }
.right-text { color:var(--right); font-weight:600; } .wrong-text { color:var(--wrong); font-weight:600; }
details { margin:10px 0; } summary { cursor:pointer; color:var(--accent); }
.two { display:grid; grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr)); gap:4px 40px;
  align-items:start; }
footer { margin-top:44px; color:var(--muted); font-size:.8rem; }
@media (max-width:560px) { main { padding:20px 14px 40px; } table { font-size:.8rem; } th, td { padding-right:8px; }
  td:first-child { min-width:6em; } .bars td:nth-child(2) { width:22%; min-width:40px; } .wide td { min-width:5em; } }
@media print { :root { color-scheme:light; --paper:#fff; --card:#fff; --ink:#000; --muted:#444; --line:#ccc;
  --track:#eee; --accent:#000; --s1:#2457c5; --s2:#c8641b; --s3:#178468; --s4:#9b3fa5; --s5:#6b7280; --s6:#b01e4a;
  --right:#178468; --wrong:#d64e3c; --full:#fff; }
  * { print-color-adjust:exact; -webkit-print-color-adjust:exact; } body { font-size:11px; } main { max-width:none;
  padding:0; } .card, figure, tr, .tile, .note { break-inside:avoid; } h2, h3 { break-after:avoid; }
  .charts { grid-template-columns:1fr 1fr; } .cards { grid-template-columns:repeat(3,1fr); }
  summary { list-style:none; } }
"""
