import type { MapKind } from "./kinds.js";

/** The style sheet of the page. */
export function pageStyle(kinds: readonly MapKind[]): string {
  const variables = (scheme: "light" | "dark"): string =>
    kinds.map((kind) => `--${kind.id}:${kind[scheme]}`).join(";");
  const classes = kinds.map(({ id }) => `.k-${id}{background:var(--${id})}`).join("\n");
  return `
:root{color-scheme:light dark;--ground:#fbfcfe;--card:#fff;--line:#dde2ea;--ink:#1b2230;--quiet:#566074;--focus:#1f5fd0;${variables("light")}}
@media (prefers-color-scheme:dark){:root{--ground:#11151c;--card:#171c25;--line:#2b3341;--ink:#e9edf5;--quiet:#9aa6bb;--focus:#8ab4ff;${variables("dark")}}}
${classes}
${LAYOUT}`;
}

const LAYOUT = `*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--ground);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif;font-variant-numeric:tabular-nums}
main{max-width:1240px;margin:0 auto;padding:clamp(20px,4vw,48px) clamp(16px,4vw,48px) 64px}
h1,h2,p,dl,dd,ul{margin:0;padding:0}
.subject{color:var(--quiet);font-size:13px;font-weight:600;letter-spacing:.06em;text-transform:uppercase}
h1{font-size:clamp(26px,4vw,38px);line-height:1.15;letter-spacing:-.02em;font-weight:650;margin:4px 0 18px;overflow-wrap:anywhere}
.facts{display:flex;flex-wrap:wrap;gap:10px 32px}
.facts dt{color:var(--quiet);font-size:12.5px}
.facts dd{font-weight:500;overflow-wrap:anywhere}
.overview{margin-top:28px}
.bar{display:flex;height:16px;gap:2px;border-radius:5px;overflow:hidden}
.bar i{flex:0 1 0;min-width:2px}
.legend{list-style:none;display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,300px),1fr));gap:14px 32px;margin-top:20px}
.legend li{display:grid;grid-template-columns:14px 1fr auto;column-gap:10px;align-items:baseline;align-content:start}
.swatch{display:inline-block;width:14px;height:14px;border-radius:3px;align-self:center;box-shadow:inset 0 0 0 1px color-mix(in srgb,var(--ink) 14%,transparent)}
.legend b{font-weight:600}
.share{font-weight:600;text-align:right}
.meaning{grid-column:2;color:var(--quiet);font-size:13px}
.figures{color:var(--quiet);font-size:13px;text-align:right;white-space:nowrap}
.legend .none b,.legend .none .share{color:var(--quiet);font-weight:500}
.how{color:var(--quiet);font-size:13.5px;margin-top:20px;max-width:78ch}
.blocks{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,330px),1fr));gap:32px 40px;margin-top:40px;border-top:1px solid var(--line);padding-top:32px}
.blocks article{min-width:0}
.blocks .large{grid-column:1/-1}
.blocks h2{font:600 15px/1.4 ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace;overflow-wrap:anywhere}
.meta{color:var(--quiet);font-size:13px;margin-bottom:10px}
canvas{display:block;max-width:100%;border-radius:2px;cursor:crosshair}
canvas:focus-visible,.scroll:focus-visible{outline:2px solid var(--focus);outline-offset:4px}
.numbers{margin-top:48px;border-top:1px solid var(--line);padding-top:32px}
.numbers h2{font-size:17px;font-weight:600;margin-bottom:12px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:13.5px}
th,td{padding:8px 0 8px 24px;text-align:right;vertical-align:baseline;white-space:nowrap;border-bottom:1px solid var(--line)}
thead th{font-weight:600;color:var(--quiet)}
th:first-child{text-align:left;padding-left:0}
thead .swatch{width:10px;height:10px;border-radius:2px;margin-right:6px}
tbody th,tfoot th{font-weight:500}
tbody th{font-family:ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:13px;white-space:normal;overflow-wrap:anywhere;min-width:12ch}
tfoot th,tfoot td{font-weight:600;border-bottom:0}
.bytes{display:block;color:var(--quiet);font-size:12px;font-weight:400}
td.none{color:var(--quiet)}
#tip{position:fixed;z-index:2;left:0;top:0;max-width:min(380px,calc(100vw - 16px));padding:10px 12px;border-radius:8px;background:var(--card);color:var(--ink);border:1px solid var(--line);box-shadow:0 6px 24px rgb(0 0 0/.18);font-size:13px;line-height:1.45;pointer-events:none}
#tip .range{font:600 12.5px/1.5 ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace;overflow-wrap:anywhere}
#tip .block{color:var(--quiet);overflow-wrap:anywhere}
#tip .kind{display:flex;gap:8px;align-items:center}
#tip .kind .swatch{width:10px;height:10px;border-radius:2px;flex:none}
#cursor{position:absolute;z-index:1;pointer-events:none;border-radius:2px;box-shadow:0 0 0 1.5px var(--ink),0 0 0 3px var(--ground)}
[hidden]{display:none!important}
.noscript{max-width:1240px;margin:0 auto 40px;padding:0 48px;color:var(--quiet)}
@media (hover:none){.pointing{display:none}}
@media print{.pointing{display:none}.bar i,.swatch{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
`;
