"""The page's style sheet: one accent for ours, everything else quiet; light, dark, phone, paper.

Colours of curves are those of Okabe and Ito, which colour-blind people can tell apart; markers
and dashes differ as well.
"""

from typing import Final

__all__ = ["STYLE"]

STYLE: Final = """
:root{color-scheme:light dark;
--page:#faf9f6;--card:#fff;--ink:#1d2126;--soft:#59616b;--rule:#e2e0da;--grid:#ecebe6;
--accent:#c2410c;--accent-soft:#fbe9dd;--peer:#9aa5b1;--peer-deep:#5b6876;
--blue:#0069a8;--green:#00805c;--violet:#a3467f;--gold:#7d6200;--warn:#8a5a00;
--teal:#0f7c8a;--purple:#6a4fb3;--rose:#b5325a;--brown:#7a4a21;--olive:#5f7a1d;
--s0:#c9d1d9;--s1:#8b98a5;--s2:#46535f;--s3:#d9c9a8}
@media (prefers-color-scheme:dark){:root{
--page:#131518;--card:#1b1e22;--ink:#e8e6e1;--soft:#a3abb4;--rule:#31363c;--grid:#282c32;
--accent:#ff9152;--accent-soft:#3a2519;--peer:#6c7885;--peer-deep:#aab4be;
--blue:#62b4ec;--green:#3ccf9f;--violet:#e291c3;--gold:#d9c34f;--warn:#e8b04a;
--teal:#4fc6d6;--purple:#b09cf0;--rose:#f08aa8;--brown:#d3a274;--olive:#b4d05e;
--s0:#464f58;--s1:#7b8793;--s2:#c3ccd4;--s3:#7d6a45}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);overflow-wrap:anywhere;
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main,header,footer,nav{max-width:1120px;margin:0 auto;padding:0 24px}
header{padding-top:56px}
h1{font-size:34px;line-height:1.15;letter-spacing:-.02em;margin:0 0 8px;font-weight:650}
h2{font-size:22px;letter-spacing:-.01em;margin:0 0 6px;font-weight:650}
h3{font-size:15px;margin:0;font-weight:600}
p{margin:0 0 12px;max-width:68ch}
.kicker{color:var(--accent);font-weight:600;font-size:14px;margin:0 0 10px}
.lead{color:var(--soft);font-size:17px}
.facts{display:flex;flex-wrap:wrap;gap:8px;padding:0;margin:20px 0 0;list-style:none}
.facts li{border:1px solid var(--rule);border-radius:99px;padding:3px 12px;font-size:14px;
color:var(--soft);background:var(--card)}
.facts .warn{color:var(--warn);border-color:currentColor}
nav{margin-top:28px}
nav ul{display:flex;flex-wrap:wrap;gap:4px 18px;padding:12px 0;margin:0;list-style:none;
border-block:1px solid var(--rule);font-size:14px}
nav a{color:var(--soft);text-decoration:none}
nav a:hover,nav a:focus-visible{color:var(--accent);text-decoration:underline}
section{padding:48px 0 8px}
.note{color:var(--soft);font-size:14px}
.tiles{display:grid;gap:16px;grid-template-columns:repeat(auto-fill,minmax(min(100%,230px),1fr));
margin:20px 0 24px}
.tile{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:16px 18px}
.tile .big{font-size:36px;line-height:1.1;font-weight:650;letter-spacing:-.02em;
font-variant-numeric:tabular-nums}
.tile.lead-on .big{color:var(--accent)}
.tile p{margin:6px 0 0;font-size:14px;color:var(--soft)}
.tile .engine{color:var(--ink);font-weight:600;margin:0 0 6px}
.cards{display:grid;gap:20px;grid-template-columns:repeat(auto-fill,minmax(min(100%,320px),1fr));
margin:18px 0 24px}
.cards.wide{grid-template-columns:repeat(auto-fill,minmax(min(100%,400px),1fr))}
.card{margin:0;background:var(--card);border:1px solid var(--rule);border-radius:10px;
padding:16px 18px;min-width:0}
.card svg.plot{margin-top:10px}
svg.accuracy{max-width:490px;margin-inline:auto}
@supports selector(:has(a)){.cards:has(>:only-child){grid-template-columns:minmax(0,460px)}}
.single{max-width:640px}
svg.plot{display:block;width:100%;height:auto}
svg text{font-size:12px;fill:var(--ink);font-variant-numeric:tabular-nums}
svg .tick{font-size:11px;fill:var(--soft)}svg .axis{font-size:11px;fill:var(--soft)}
svg .grid{stroke:var(--grid);fill:none}svg .zero{stroke:var(--peer)}
.curve{--c:var(--peer-deep)}.a-levit{--c:var(--ink)}.a-efficientnet{--c:var(--blue)}
.a-deit{--c:var(--green)}.a-resnet{--c:var(--violet)}.a-convit{--c:var(--gold)}
.a-mobilenetv4{--c:var(--purple)}.a-fastvit{--c:var(--olive)}.a-repvit{--c:var(--rose)}
.a-efficientvit,.a-efficientvit-m{--c:var(--teal)}.a-hgnetv2{--c:var(--brown)}
.ours{--c:var(--accent)}
.curve .line{stroke:var(--c);fill:none;stroke-width:1.75}
.curve .mark{stroke:var(--c);fill:var(--card);stroke-width:1.75}
.curve.ours .line{stroke-width:3}.curve.ours .mark{fill:var(--c)}
.curve .whisker{stroke:var(--c);stroke-width:1;fill:none}
.ghost{stroke:var(--accent);stroke-opacity:.28;fill:none;stroke-width:3}
svg .name,svg .model{paint-order:stroke;stroke:var(--card);stroke-width:3px;stroke-linejoin:round}
svg .name{fill:var(--c,var(--soft));font-weight:600}
svg .model{fill:var(--soft);font-size:11px}
.leader{stroke:var(--soft);stroke-width:.75;fill:none}
.legend{display:flex;flex-wrap:wrap;gap:2px 18px;list-style:none;padding:0;margin:10px 0 0;
font-size:13px;color:var(--soft)}
.legend li{display:flex;align-items:center;gap:7px}
.swatch{width:32px;height:14px;flex:none}
.key{display:inline-block;width:12px;height:12px;border-radius:2px;flex:none}
.bar{fill:var(--peer)}.ours .bar{fill:var(--accent)}
.rows .whisker{stroke:var(--ink);stroke-width:1.25;fill:none}
.row .value{font-weight:600}.row.ours .label,.row.ours .value{fill:var(--accent);font-weight:600}
svg .missing{fill:var(--warn)}
.range{stroke:var(--peer-deep);stroke-width:1.25;fill:none}
.box{fill:var(--peer)}.p50{stroke:var(--ink);stroke-width:2;fill:none}
.p90{fill:var(--card);stroke:var(--peer-deep);stroke-width:1.5}
.p99{fill:var(--peer-deep)}
.row.ours .range,.row.ours .p90{stroke:var(--accent)}
.row.ours .box{fill:var(--accent);fill-opacity:.45}.row.ours .p99{fill:var(--accent)}
.s0{fill:var(--s0)}.s1{fill:var(--s1)}.s2{fill:var(--s2)}.s3{fill:var(--s3)}
.row.ours .s2{fill:var(--accent)}
.stage{stroke:var(--card);stroke-width:1}
.key.s0{background:var(--s0)}.key.s1{background:var(--s1)}.key.s2{background:var(--s2)}
.key.s3{background:var(--s3)}
.dot{fill:var(--peer-deep)}
.scroll{overflow-x:auto;border:1px solid var(--rule);border-radius:10px;background:var(--card);
margin:14px 0 28px}
.scroll:focus-visible{outline:2px solid var(--accent)}
table{border-collapse:collapse;width:100%;font-size:14px;line-height:1.4;
font-variant-numeric:tabular-nums;overflow-wrap:normal}
caption{text-align:left;padding:14px 16px 10px;font-weight:600;font-size:15px}
caption .note{display:block;font-weight:400;font-size:13px}
th,td{padding:6px 14px;text-align:left;border-top:1px solid var(--rule);vertical-align:top}
thead th{font-weight:600;color:var(--soft);font-size:13px;vertical-align:bottom}
tbody th{font-weight:500}
td.n{text-align:right;white-space:nowrap}th.n{text-align:right;min-width:6.5em}
td.t,tbody th{white-space:nowrap}td.long,.narrow th{white-space:normal;min-width:20em}
tr.ours td,tr.ours th{background:var(--accent-soft)}
tr.ours th{color:var(--accent);font-weight:600}
tr.group th{padding-top:16px;font-weight:600;border-top-color:var(--rule)}
tr.group+tr>*{border-top:0}
.narrow td{overflow-wrap:anywhere;min-width:0}
.better{color:var(--accent);font-weight:600}.worse{color:var(--blue);font-weight:600}
pre{margin:14px 0 20px;padding:14px 16px;background:var(--card);border:1px solid var(--rule);
border-radius:10px;white-space:pre-wrap;font:14px/1.5 ui-monospace,SFMono-Regular,Menlo,
"DejaVu Sans Mono",monospace}
details{margin:0 0 14px}
summary{cursor:pointer;width:fit-content;color:var(--soft);font-size:14px;padding:4px 0}
summary:hover,summary:focus-visible{color:var(--accent)}
footer{padding-top:24px;padding-bottom:56px;color:var(--soft);font-size:14px}
@media (max-width:560px){main,header,footer,nav{padding-inline:16px}header{padding-top:32px}
h1{font-size:27px}section{padding-top:36px}.card{padding:14px 10px}th,td{padding:6px 12px}}
@media print{details::details-content{content-visibility:visible;block-size:auto}
summary{display:none}
:root{--page:#fff}nav{display:none}section,.card,.tile{break-inside:avoid}
section.long{break-inside:auto}.scroll{overflow:visible}body{font-size:11pt}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""
