"use strict";
// Charts, tables, theme and renewal. What is drawn stands in the element #data; how it looks, in the style sheet.
const DATA = JSON.parse(document.getElementById("data").textContent);
const RUN_COLOURS = 10;
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "x"];
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const runColour = (run) => style(`--run-${run % RUN_COLOURS}`);
const make = (tag, text) => { const node = document.createElement(tag); if (text !== undefined) node.textContent = text; return node; };
const remember = (key, value) => { try { sessionStorage.setItem(`gradledger:${location.pathname}:${key}`, value); } catch { /* storage may be off */ } };
const recall = (key) => { try { return sessionStorage.getItem(`gradledger:${location.pathname}:${key}`); } catch { return null; } };

const themeListeners = [];
function setTheme(theme) {
  // The style sheet and the charts follow the attribute.
  document.documentElement.dataset.theme = theme;
  const button = document.getElementById("theme");
  button.setAttribute("aria-pressed", String(theme === "dark"));
  for (const listener of themeListeners) listener();
}
function startTheme() {
  const system = matchMedia("(prefers-color-scheme: dark)");
  setTheme(document.documentElement.dataset.theme);
  system.addEventListener("change", () => { if (!recall("theme")) setTheme(system.matches ? "dark" : "light"); });
  document.getElementById("theme").addEventListener("click", () => {
    const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    remember("theme", next);
    setTheme(next);
  });
}

function fade(colour, alpha) {
  const value = parseInt(colour.slice(1), 16);
  return `rgba(${value >> 16},${(value >> 8) & 255},${value & 255},${alpha})`;
}

// How each role looks. `order` counts the traces of the same role and run, so that no two look alike.
function drawn(trace, chart, order) {
  const several = DATA.groups.length > 0;
  const colour = runColour(trace.group);
  const soft = style("--soft");
  const base = { x: trace.x, y: trace.y, name: trace.name, type: "scatter", mode: "lines" };
  const has = (role) => chart.traces.some((other) => other.role === role && other.run === trace.run);
  switch (trace.role) {
    case "dots":
      return [{ ...base, mode: "markers", marker: { size: 4, color: fade(soft, 0.38) }, hoverinfo: "skip" }];
    case "band":
      return [
        { ...base, y: trace.low, line: { width: 0 }, showlegend: false, hoverinfo: "skip", legendgroup: trace.name },
        { ...base, line: { width: 0 }, fill: "tonexty", fillcolor: fade(soft, 0.22), hoverinfo: "skip", legendgroup: trace.name },
      ];
    case "trend":
      return [{ ...base, line: { width: 2.5, color: colour } }];
    case "limit":
      return [{ ...base, line: { width: 1.75, color: colour } }];
    case "points": {
      const own = several ? colour : chart.key === "loss" ? style("--ink") : runColour(order);
      return [{ ...base, mode: trace.x.length > 80 ? "lines" : "lines+markers",
        line: { width: 1.75, color: own, dash: chart.key === "loss" ? "dot" : DASHES[order % DASHES.length] },
        marker: { size: 7, color: own, symbol: SYMBOLS[order % SYMBOLS.length] } }];
    }
    default: {
      const behind = has("trend") || has("limit");
      const own = has("limit") ? soft : colour;
      return [{ ...base, line: { width: behind ? 1 : 1.75, color: behind ? fade(own, 0.5) : own } }];
    }
  }
}

function traces(chart) {
  const orders = {}, named = new Set();
  return chart.traces.flatMap((trace) => {
    const key = `${trace.role}/${trace.run}`;
    orders[key] = (orders[key] ?? -1) + 1;
    const lines = drawn(trace, chart, orders[key]);
    // Of several runs the legend names each group once, in its boldest line, and hides or shows all of its lines.
    const isBold = !["line", "dots", "band"].includes(trace.role) || chart.traces.every((other) => other.run !== trace.run || other.role === "line");
    if (!DATA.groups.length) return lines;
    const isFirst = isBold && !named.has(trace.group);
    if (isFirst) named.add(trace.group);
    const thin = chart.traces.some((other) => other.group === trace.group && other.run !== trace.run);
    return lines.map((line) => ({ ...line, legendgroup: `group-${trace.group}`, showlegend: isFirst, legendrank: trace.group,
      name: isFirst ? DATA.groups[trace.group] : line.name, opacity: thin ? 0.6 : 1,
      line: thin && line.line ? { ...line.line, width: Math.min(line.line.width, 1.25) } : line.line,
      mode: thin && line.mode === "lines+markers" ? "lines" : line.mode }));
  });
}

function layout(chart, log) {
  const axis = { color: style("--soft"), gridcolor: style("--line"), zeroline: false, linecolor: style("--line"), ticks: "", automargin: true };
  const formats = { percent: ".0%", seconds: ".2s", number: log ? "" : ".3~g" };
  return {
    margin: { l: 8, r: 12, t: 8, b: 8 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: style("--sans"), size: 12, color: style("--soft") },
    hovermode: DATA.groups.length > 3 ? "closest" : "x unified",
    hoverlabel: { bgcolor: style("--panel"), bordercolor: style("--line"), font: { color: style("--ink"), size: 12 } },
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    showlegend: chart.traces.length > 1 && (DATA.groups.length < 4 || (chart.is_wide && innerWidth > 700)),
    legend: { orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom", font: { color: style("--ink"), size: 12 } },
    xaxis: { ...axis, title: { text: "update", standoff: 8 }, showgrid: false, showline: true },
    yaxis: { ...axis, title: { text: chart.y_label, standoff: 10 }, type: log ? "log" : "linear",
      tickformat: formats[chart.format], ticksuffix: chart.format === "seconds" ? "s" : "", nticks: 6, rangemode: chart.key === "lr" ? "tozero" : "normal",
      hoverformat: chart.format === "percent" ? ".1%" : ".4~g", dtick: log ? 1 : undefined },
  };
}

function zoom(plot, how) {
  if (how === "all") return Plotly.relayout(plot, { "xaxis.autorange": true, "yaxis.autorange": true });
  const [low, high] = plot.layout.xaxis.range;
  const half = ((high - low) / 2) * (how === "in" ? 0.5 : 2);
  const middle = (low + high) / 2;
  return Plotly.relayout(plot, { "xaxis.range": [middle - half, middle + half] });
}

// The charting library is run when the first chart wants it: the page itself opens without waiting for it.
let library = null;
function withLibrary() {
  library ??= new Promise((resolve) => {
    setTimeout(() => {
      const script = make("script", document.getElementById("plotly").textContent);
      document.body.append(script);
      resolve();
    }, 30);
  });
  return library;
}

function startChart(plot) {
  const chart = DATA.charts.find((candidate) => candidate.key === plot.dataset.chart);
  const figure = plot.closest("figure");
  const logButton = figure.querySelector("[data-log]");
  const microButton = figure.querySelector("[data-micro]");
  let isDrawn = false;
  const isMicro = (trace) => trace.role === "dots" || trace.role === "band";
  const pressed = (button) => button?.getAttribute("aria-pressed") === "true";
  const toggle = (button) => button.setAttribute("aria-pressed", String(!pressed(button)));
  const draw = async () => {
    await withLibrary();
    const kept = { ...chart, traces: chart.traces.filter((trace) => !isMicro(trace) || !microButton || pressed(microButton)) };
    isDrawn = true;
    return Plotly.react(plot, traces(kept), layout(kept, pressed(logButton)), { displayModeBar: false, responsive: true });
  };
  if (microButton && !chart.traces.some(isMicro)) microButton.hidden = true;
  logButton?.addEventListener("click", () => { toggle(logButton); draw(); });
  microButton?.addEventListener("click", () => { toggle(microButton); draw(); });
  for (const button of figure.querySelectorAll("[data-chart-zoom]")) {
    button.addEventListener("click", async () => { if (!isDrawn) await draw(); zoom(plot, button.dataset.chartZoom); });
  }
  themeListeners.push(() => { if (isDrawn) draw(); });
  addEventListener("beforeprint", () => { if (!isDrawn) draw(); });
  // A chart is drawn when it comes near the screen, so that a long report opens at once.
  const watcher = new IntersectionObserver((seen) => {
    if (seen.some((entry) => entry.isIntersecting)) { watcher.disconnect(); draw(); }
  }, { rootMargin: "400px" });
  watcher.observe(plot);
}

const shortNumber = (value) => (value === null || value === undefined ? "–" : Number(value.toPrecision(5)).toString());

function chartTable(chart) {
  const rows = new Map();
  chart.traces.forEach((trace, column) => {
    trace.x.forEach((x, i) => {
      if (!rows.has(x)) rows.set(x, chart.traces.map(() => []));
      rows.get(x)[column].push(trace.role === "band" ? `${shortNumber(trace.low[i])} to ${shortNumber(trace.y[i])}` : shortNumber(trace.y[i]));
    });
  });
  const lines = [...rows].sort(([a], [b]) => a - b).map(([x, cells]) => [x, ...cells.map((cell) => cell.join(" "))]);
  return table(["update", ...chart.traces.map((trace) => trace.name)], lines);
}

function table(columns, rows) {
  const node = make("table");
  node.className = "figures";
  const head = node.createTHead().insertRow();
  for (const column of columns) { const cell = make("th", column); cell.scope = "col"; head.append(cell); }
  const body = node.createTBody();
  for (const row of rows) {
    const line = body.insertRow();
    row.forEach((value, i) => {
      const cell = make(i ? "td" : "th", String(value));
      if (!i) cell.scope = "row";
      line.append(cell);
    });
  }
  return node;
}

function startTable(details, build) {
  details.addEventListener("toggle", () => {
    const box = details.querySelector(".scroll");
    if (details.open && !box.firstChild) box.append(build());
  });
}

function startRenewal() {
  const scroll = recall("scroll");
  if (scroll) { scrollTo({ top: Number(scroll), behavior: "instant" }); remember("scroll", ""); }
  if (!DATA.refreshSeconds) return;
  setTimeout(() => { remember("scroll", String(scrollY)); location.reload(); }, DATA.refreshSeconds * 1000);
}

startTheme();
for (const swatch of document.querySelectorAll("[data-run]")) swatch.style.background = `var(--run-${swatch.dataset.run % RUN_COLOURS})`;
for (const plot of document.querySelectorAll("[data-chart]")) startChart(plot);
for (const chart of DATA.charts) startTable(document.querySelector(`[data-table="${chart.key}"]`), () => chartTable(chart));
startRenewal();
