// Draws what `data-chart` of an element says: bars, one upon the other, or lines. The same numbers stand in a table
// beside it. Times are UTC, as everywhere.
(() => {
  const NANO = 1e9;
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const count = new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 1 });
  const exact = new Intl.NumberFormat("en-US");

  const usd = (nano) => {
    const value = nano / NANO;
    const places = value === 0 || value >= 0.1 ? 2 : Math.min(9, 2 - Math.floor(Math.log10(value)));
    return `$${value.toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: places })}`;
  };
  const span = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${Math.round(ms / 100) / 10} s`);
  // `least`: the top of an axis where all values are zero, so that its marks have names of their own.
  const units = {
    count: { axis: (value) => count.format(value), tip: (value) => exact.format(value), least: 1 },
    usd: { axis: usd, tip: usd, least: NANO },
    ms: { axis: span, tip: span, least: 1000 },
  };

  // Between two requests there is none.
  const WHOLE = [...Array(15).keys()].flatMap((power) => [1, 2, 5].map((each) => each * 10 ** power));

  const day = (seconds) => new Date(seconds * 1000).toISOString().slice(0, 10);
  const hour = (seconds) => new Date(seconds * 1000).toISOString().slice(11, 16);
  const when = (seconds, step) => (step % 86400 ? `${day(seconds)} ${hour(seconds)} UTC` : day(seconds));
  const tick = (seconds, step) => (step < 21600 ? hour(seconds) : day(seconds).slice(5));

  // What is called by its day alone is marked where that day begins.
  const marked = (data, width) => {
    const begins = data.step < 21600 ? data.x : data.x.filter((each) => each % 86400 === 0);
    const every = Math.ceil(begins.length / Math.max(2, Math.floor(width / 90)));
    return begins.filter((_, index) => index % every === 0);
  };

  // Each series with those under it, so that bars that are drawn one over the other look stacked.
  const stacked = (series) => {
    const sums = series[0].values.map(() => 0);
    return series.map((each) => each.values.map((value, index) => (sums[index] += value)));
  };

  // A price of a few tokens has many digits.
  const room = (labels) => Math.max(58, ...(labels ?? []).map((each) => 12 + 7 * each.length));

  const tipOf = (host, data) => {
    const tip = document.createElement("div");
    tip.className = "chart-tip";
    tip.hidden = true;
    host.append(tip);
    return (plot) => {
      const index = plot.cursor.idx;
      if (index === null || index === undefined || plot.cursor.left < 0) {
        tip.hidden = true;
        return;
      }
      const title = document.createElement("p");
      title.textContent = when(data.x[index], data.step);
      const rows = data.series.map((each) => {
        const row = document.createElement("div");
        const name = document.createElement("span");
        const value = document.createElement("strong");
        name.textContent = each.label;
        value.textContent = each.values[index] === null ? "–" : units[data.unit].tip(each.values[index]);
        row.append(name, value);
        return row;
      });
      tip.replaceChildren(title, ...rows);
      tip.hidden = false;
      const left = plot.cursor.left + plot.bbox.left / devicePixelRatio;
      const width = tip.offsetWidth;
      tip.style.left = `${left + width + 24 > host.clientWidth ? Math.max(0, left - width - 12) : left + 12}px`;
    };
  };

  const draw = (host) => {
    const data = JSON.parse(host.dataset.chart);
    host.replaceChildren();
    const bars = data.kind === "bars";
    const values = bars ? stacked(data.series) : data.series.map((each) => each.values);
    const colours = data.series.map((_, index) => style(`--series-${Math.min(index, 5)}`));
    const order = data.series.map((_, index) => index);
    // The highest stack first: the lower ones are drawn over it.
    if (bars) order.reverse();
    const muted = style("--muted-foreground");
    const grid = { stroke: style("--border"), width: 1 };
    const font = `11px ${getComputedStyle(document.body).fontFamily}`;
    const unit = units[data.unit];
    const half = data.step / 2;
    const show = tipOf(host, data);
    const options = {
      width: host.clientWidth,
      height: host.clientHeight,
      legend: { show: false },
      padding: [8, 12, 0, 0],
      cursor: { y: false, points: { show: !bars }, drag: { x: false, y: false, setScale: false } },
      scales: {
        x: { time: false, range: () => [data.x[0] - half, data.x[data.x.length - 1] + half] },
        y: { range: (_, _low, high) => [0, high > 0 ? high * 1.08 : unit.least] },
      },
      axes: [
        { stroke: muted, font, grid: { show: false }, ticks: { show: false }, size: 26, space: 58, values: (_, at) => at.map((each) => tick(each, data.step)), splits: () => marked(data, host.clientWidth) },
        { stroke: muted, font, grid, ticks: { show: false }, size: (_, labels) => room(labels), space: 36, ...(data.unit === "count" && { incrs: WHOLE }), values: (_, at) => at.map(unit.axis) },
      ],
      series: [
        {},
        ...order.map((index) => ({
          stroke: colours[index],
          width: bars ? 0 : 1.75,
          fill: bars ? colours[index] : undefined,
          paths: bars ? uPlot.paths.bars({ size: [0.72, 28], radius: order.length === 1 ? 0.12 : 0 }) : undefined,
          points: { show: !bars && data.x.length < 40, size: 4, fill: colours[index] },
          spanGaps: true,
        })),
      ],
      hooks: { setCursor: [show] },
    };
    const tip = host.lastElementChild;
    new uPlot(options, [data.x, ...order.map((index) => values[index])], host);
    host.append(tip);
  };

  const all = () => document.querySelectorAll("[data-chart]").forEach(draw);
  let waiting = 0;
  window.addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(all, 120);
  });
  document.addEventListener("themechange", all);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => setTimeout(all));
  all();
})();
