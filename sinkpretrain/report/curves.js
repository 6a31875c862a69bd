// The charts of the report: what is drawn follows `state`, which the controls, the legend and the theme change.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("curves-data").textContent);
  const place = document.getElementById("curves");
  const END = 0.6; // where the enlarged part starts, as a fraction of the longest run
  const PRINTED = { width: 680, height: 360 }; // pixels that fit a page of paper
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const paper = window.matchMedia("print");
  const hidden = new Set(data.arms.filter((arm) => arm.hidden).map((arm) => arm.name));
  const state = { axis: "tokens", log: false, end: false, hidden, printing: false };
  const charts = [];

  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value !== false) element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children);
    return element;
  };
  const theme = () => (dark.matches && !state.printing ? "dark" : "light");
  const whole = (value) => (value === null ? "\u2013" : value.toLocaleString("en-US", { maximumFractionDigits: 1 }));
  const exact = (value) => (value === null ? "not finite" : String(Number(value.toPrecision(6))));
  const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;");
  const several = data.arms.some((arm) => Object.keys(arm.means).length > 0);
  const translucent = (colour, share) => {
    const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
    return `rgba(${red},${green},${blue},${share})`;
  };

  // One point in words, for the pointer.
  const hover = (name, quantity, curve) =>
    curve.value.map((value, at) => {
      const band = curve.low ? ` [${exact(curve.low[at])}, ${exact(curve.high[at])}]` : "";
      const unit = quantity.unit ? ` ${quantity.unit}` : "";
      return (
        `<b>${escaped(name)}</b><br>${quantity.name} ${exact(value)}${band}${unit}<br>` +
        `step ${whole(curve.step[at])}, ${whole(curve.tokens[at])} tokens, ${whole(curve.seconds[at])} s`
      );
    });

  const line = (arm, quantity, name, curve, look) => ({
    type: "scatter",
    mode: look.marks ? "lines+markers" : "lines",
    name,
    x: curve[state.axis],
    y: curve.value,
    text: hover(name, quantity, curve),
    hoverinfo: "text",
    legendgroup: arm.name,
    opacity: look.opacity,
    line: { color: arm[theme()], width: look.width, dash: arm.dash },
    marker: { color: arm[theme()], symbol: arm.symbol, size: 7, maxdisplayed: 14 },
  });

  const band = (arm, curve) => {
    const kept = curve.value.map((_, at) => at).filter((at) => curve.low[at] !== null && curve.high[at] !== null);
    const back = [...kept].reverse();
    return {
      type: "scatter",
      mode: "lines",
      name: `${arm.name}, band`,
      x: [...kept, ...back].map((at) => curve[state.axis][at]),
      y: [...kept.map((at) => curve.low[at]), ...back.map((at) => curve.high[at])],
      fill: "toself",
      fillcolor: translucent(arm[theme()], 0.16),
      line: { width: 0 },
      hoverinfo: "skip",
      legendgroup: arm.name,
    };
  };

  const shownArms = () => data.arms.filter((arm) => !state.hidden.has(arm.name));

  const traces = (quantity) => {
    const bands = [];
    const thin = [];
    const bold = [];
    for (const arm of shownArms()) {
      const mean = arm.means[quantity.metric];
      const runs = arm.runs.filter((run) => run.curves[quantity.metric]);
      if (mean && !state.hidden.has("band")) bands.push(band(arm, mean));
      for (const run of runs) {
        const name = run.name + (run.note ? ` (${run.note})` : "");
        const look = mean ? { width: 1, opacity: 0.6 } : { width: 2.2, marks: true };
        if (!mean || !state.hidden.has("seeds")) (mean ? thin : bold).push(line(arm, quantity, name, run.curves[quantity.metric], look));
      }
      if (mean) {
        const name = `${arm.name}, mean of ${mean.seeds} seeds [lowest, highest]`;
        bold.push(line(arm, quantity, name, mean, { width: 2.4, marks: true }));
      }
    }
    return [...bands, ...thin, ...bold];
  };

  // The ranges of both axes: of the shown runs, but for those that diverged where others did not.
  const ranges = (quantity) => {
    const runs = shownArms().flatMap((arm) => arm.runs).filter((run) => run.curves[quantity.metric]);
    const sound = runs.filter((run) => !run.diverged);
    const xs = runs.flatMap((run) => run.curves[quantity.metric][state.axis]).filter((x) => x !== null);
    const right = Math.max(...xs);
    const least = Math.min(...xs.filter((x) => x > 0));
    const left = state.end ? END * right : 0;
    const ys = (sound.length ? sound : runs).flatMap((run) => {
      const curve = run.curves[quantity.metric];
      return curve.value.filter((value, at) => value !== null && curve[state.axis][at] >= left);
    });
    let [low, high] = [Math.min(...ys), Math.max(...ys)];
    if (quantity.fromZero && !state.end) low = Math.min(low, 0);
    const margin = 0.05 * (high - low) || 0.05;
    const x = state.log ? [Math.log10(left || least), Math.log10(right)] : [left - 0.01 * (right - left), right];
    const room = state.log ? 0.02 * (x[1] - x[0]) : 0.015 * (right - left);
    const y = [quantity.fromZero && !state.end ? low : low - margin, high + margin];
    return ys.length ? { x: [x[0] - (state.log ? room : 0), x[1] + room], y } : {};
  };

  const layout = (quantity) => {
    const colours = data.themes[theme()];
    const range = ranges(quantity);
    const narrow = place.clientWidth < 560 && !state.printing;
    const axis = {
      gridcolor: colours.line,
      linecolor: colours.soft,
      tickfont: { color: colours.ink },
      zeroline: false,
      automargin: true,
      exponentformat: "none",
    };
    const unit = quantity.unit ? ` (${quantity.unit})` : "";
    const title = (text) => ({ text, font: { color: colours.ink, size: 13 }, standoff: 8 });
    const logarithmic = state.log ? { type: "log", dtick: 1 } : { type: "linear" };
    return {
      paper_bgcolor: colours.paper,
      plot_bgcolor: colours.paper,
      font: { family: "system-ui, 'DejaVu Sans', sans-serif", size: narrow ? 11 : 12, color: colours.ink },
      margin: { l: 50, r: 12, t: 30, b: 46 },
      showlegend: false,
      hovermode: "closest",
      hoverdistance: 40,
      hoverlabel: {
        align: "left",
        bgcolor: colours.paper,
        bordercolor: colours.soft,
        font: { color: colours.ink, size: narrow ? 11 : 13 },
        namelength: -1,
      },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colours.soft, activecolor: colours.ink },
      dragmode: narrow ? false : "zoom", // a finger scrolls the page
      uirevision: [quantity.metric, state.axis, state.log, state.end].join(),
      xaxis: {
        ...axis,
        ...logarithmic,
        range: range.x,
        title: title(data.axes[state.axis] + (state.log ? ", logarithmic" : "")),
        tickformat: "~s",
        nticks: narrow ? 5 : 9,
      },
      yaxis: { ...axis, range: range.y, title: title(quantity.name + unit) },
      ...(state.printing ? { ...PRINTED, autosize: false } : { autosize: true }),
    };
  };

  const config = {
    responsive: true,
    displaylogo: false,
    showLink: false,
    doubleClick: "reset",
    scrollZoom: false,
    modeBarButtons: [["toImage", "resetScale2d"]],
    toImageButtonOptions: { format: "svg", filename: "curves" },
  };

  // What the chart shows, for those who cannot see it.
  const spoken = (quantity) => {
    const ends = shownArms().flatMap((arm) => {
      const curve = arm.means[quantity.metric] || (arm.runs.find((run) => run.curves[quantity.metric]) || { curves: {} }).curves[quantity.metric];
      return curve ? [`${arm.name} ${exact(curve.value[curve.value.length - 1])}`] : [];
    });
    return `Chart of ${quantity.name} against ${data.axes[state.axis]}; at the end: ${ends.join(", ")}.`;
  };

  const draw = () => {
    for (const chart of charts) {
      const quantity = chart.quantities[Number(chart.choice ? chart.choice.value : 0)];
      window.Plotly.react(chart.element, traces(quantity), layout(quantity), config);
      chart.element.setAttribute("aria-label", spoken(quantity));
    }
    for (const entry of place.querySelectorAll(".entry")) {
      entry.setAttribute("aria-pressed", String(!state.hidden.has(entry.dataset.key)));
      const arm = data.arms.find((one) => one.name === entry.dataset.key);
      if (arm) entry.querySelector("svg").style.color = arm[theme()];
    }
  };

  // The line and mark of a legend entry, in its current colour.
  const sample = (kind, arm) => {
    const marks = {
      circle: '<circle cx="16" cy="6" r="3.6"/>',
      square: '<rect x="12.6" y="2.6" width="6.8" height="6.8"/>',
      "triangle-up": '<path d="M16 1.6 20 9.4H12Z"/>',
      diamond: '<path d="M16 1.4 20.4 6 16 10.6 11.6 6Z"/>',
      "triangle-down": '<path d="M16 10.4 20 2.6H12Z"/>',
      cross: '<path d="M14.6 2h2.8v2.6H20v2.8h-2.6V10h-2.8V7.4H12V4.6h2.6Z"/>',
      x: '<path d="M13 1.6l3 3 3-3 1.6 1.6-3 2.8 3 2.8L19 10.4l-3-3-3 3-1.6-1.6 3-2.8-3-2.8Z"/>',
      star: '<path d="M16 .8l1.5 3.5 3.8.3-2.9 2.5.9 3.7-3.3-2-3.3 2 .9-3.7-2.9-2.5 3.8-.3Z"/>',
    };
    const dashes = { solid: "", dash: "6 3", dot: "2 2", dashdot: "6 2 2 2", longdash: "10 3", longdashdot: "10 2 2 2" };
    const stroke = `<path d="M1 6H31" stroke="currentColor" stroke-width="${kind === "seeds" ? 1 : 2.4}" stroke-dasharray="${arm ? dashes[arm.dash] : ""}"/>`;
    const inside = kind === "band" ? '<rect width="32" height="12" opacity=".3"/>' : stroke + (arm ? marks[arm.symbol] : "");
    const holder = make("span");
    holder.innerHTML = `<svg aria-hidden="true" width="32" height="12" viewBox="0 0 32 12" fill="currentColor">${inside}</svg>`;
    return holder.firstChild;
  };

  const entry = (key, text, arm) =>
    make(
      "button",
      {
        type: "button",
        class: "entry",
        "data-key": key,
        "aria-pressed": "true",
        onclick: () => {
          if (!state.hidden.delete(key)) state.hidden.add(key);
          draw();
        },
      },
      sample(key, arm),
      text,
    );

  // Below each chart; both legends switch the same lines.
  const legend = () => {
    const kinds = several ? [entry("seeds", "single seeds"), entry("band", "lowest to highest seed")] : [];
    const arms = data.arms.map((arm) => entry(arm.name, arm.name, arm));
    return make("div", { class: "entries", role: "group", "aria-label": "Lines to show" }, ...arms, ...kinds);
  };

  const choice = (type, name, text, checked, changed) => {
    const input = make("input", { type, name, checked, onchange: () => { changed(input.checked); draw(); } });
    return make("label", {}, input, text);
  };

  const controls = () => {
    const names = { tokens: "tokens", step: "steps", seconds: "seconds" };
    const axes = Object.keys(data.axes).map((axis) =>
      choice("radio", "axis", names[axis], axis === state.axis, () => { state.axis = axis; }),
    );
    const log = choice("checkbox", "log", "logarithmic", false, (on) => { state.log = on; });
    const parts = [["whole", "the whole", true], ["end", "the end, enlarged", false]].map(([key, text, checked]) =>
      choice("radio", "part", text, checked, () => { state.end = key === "end"; }),
    );
    return make(
      "div",
      { class: "controls" },
      make("fieldset", {}, make("legend", {}, "Against"), ...axes, log),
      make("fieldset", {}, make("legend", {}, "Show"), ...parts),
    );
  };

  const build = () => {
    place.append(controls());
    for (const { name, quantities } of data.charts) {
      const options = quantities.map((quantity, at) => make("option", { value: at }, quantity.name));
      const select = quantities.length > 1 && make("select", { "aria-label": `What ${name.toLowerCase()} shows`, onchange: draw }, ...options);
      const element = make("div", { class: "chart", role: "img" });
      charts.push({ element, quantities, choice: select });
      const head = make("div", { class: "chart-head" }, make("h3", {}, name), ...(select ? [select] : []));
      place.append(make("div", { class: "chart-part" }, head, element, legend()));
    }
  };

  const print = (on) => {
    if (state.printing === on) return;
    state.printing = on;
    draw();
  };

  // The library is packed into the page.
  const load = async () => {
    const packed = atob(document.getElementById("plotly").textContent);
    const bytes = Uint8Array.from(packed, (letter) => letter.charCodeAt(0));
    const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    document.head.append(make("script", {}, await new Response(unpacked).text()));
  };

  load()
    .then(() => {
      build();
      draw();
    })
    .catch((error) => {
      place.textContent = `The curves need a browser of 2023 or later: ${error.message}`;
    });
  dark.addEventListener("change", draw);
  paper.addEventListener("change", (event) => print(event.matches));
  window.addEventListener("beforeprint", () => print(true));
  window.addEventListener("afterprint", () => print(false));
})();
