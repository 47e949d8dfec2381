// Scorecards that readers choose, and tables that sort. Without scripts the first card stays as it is written.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const pick = (name) => document.getElementById("card-" + name);
  const card = document.getElementById("card"), body = card.tBodies[0], controls = document.getElementById("controls");
  const SAID = {"+": "; significantly better", "-": "; significantly worse", "0": "; not significant"};
  const FLIPPED = {"+": "-", "-": "+", "0": "0", " ": " "};
  let sorted = {lead: null, down: false};

  const fill = (select, entries) => select.replaceChildren(...entries.map(([value, text]) => new Option(text, value)));
  const distinct = (values) => [...new Set(values)];
  const four = (x) => x === null ? "–" : Math.abs(x) >= 1e4 || (x && Math.abs(x) < 1e-3) ? x.toExponential(2) : String(+x.toPrecision(4));
  const minus = (text) => text.replaceAll("-", "−");

  function marks(ours, theirs, score, region, variable) {
    const there = data.marks[ours + "|" + theirs], back = data.marks[theirs + "|" + ours];
    if (there) return there[score][region][variable];
    return back ? [...back[score][region][variable]].map((m) => FLIPPED[m]).join("") : "";
  }

  function rows() {
    const ours = pick("ours").value, theirs = pick("theirs").value, region = +pick("region").value;
    const score = data.scores[+pick("score").value];
    return data.variables.map((variable, v) => {
      const a = data.values[ours][score.key][region][v], b = data.values[theirs][score.key][region][v];
      const sign = marks(ours, theirs, score.key, region, v);
      const unit = score.unit === "x" ? " " + variable.unit : "";
      const percent = a.map((x, k) => x === null || b[k] === null || b[k] === score.best ? NaN
        : 100 * ((x - score.best) / (b[k] - score.best) - 1));
      const titles = a.map((x, k) => `${variable.name}, ${data.leads[k]}: ${four(x)}${unit}, ${data.labels[theirs]} ${four(b[k])}${unit}${SAID[sign[k]] || ""}`);
      return {variable, a, percent, sign, titles};
    });
  }

  function cell(row, k, view) {
    const td = document.createElement("td"), p = row.percent[k], mark = {"+": "▲", "-": "▼"}[row.sign[k]] || "";
    td.title = row.titles[k];
    if (Number.isNaN(p)) { td.textContent = view === "score" ? minus(four(row.a[k])) : "–"; return td; }
    let place = data.edges.findIndex((edge) => p <= edge);
    if (place < 0) place = data.edges.length;
    const symbols = view === "symbols";
    const colour = data.fills[place];
    if (!symbols) { td.style.background = colour; td.style.color = data.dark.includes(place) ? "#ffffff" : "#0b1118"; }
    const text = view === "score" ? four(row.a[k]) : (p >= 0 ? "+" : "") + p.toFixed(Math.abs(p) < 10 ? 1 : 0);
    if (symbols) {
      const sign = document.createElement("span");
      sign.textContent = Math.abs(p) < 1 && !mark ? "·" : mark || (p < 0 ? "△" : "▽");
      sign.style.fontSize = `${9 + 3.5 * Math.min(3, Math.log2(1 + Math.abs(p) / 2))}px`;
      sign.style.color = p < 0 ? "#084594" : "#a63603";
      td.append(sign);
    } else {
      td.append(minus(text));
      if (mark) { const i = document.createElement("i"); i.textContent = mark; td.append(i); }
    }
    return td;
  }

  function draw() {
    const level = pick("level").value, short = pick("variable").value, view = pick("view").value;
    let shown = rows().filter((r) => (level === "all" || r.variable.level === level) && (short === "all" || r.variable.short === short));
    if (sorted.lead !== null) {
      const value = (r) => Number.isNaN(r.percent[sorted.lead]) ? Infinity : r.percent[sorted.lead] * (sorted.down ? -1 : 1);
      shown = shown.sort((a, b) => value(a) - value(b));
    }
    let last = null;
    body.replaceChildren(...shown.map((row) => {
      const tr = document.createElement("tr"), head = document.createElement("th"), at = document.createElement("td");
      head.scope = "row"; head.title = row.variable.long; at.className = "level";
      if (row.variable.short !== last) tr.className = "group"; else head.className = "again";
      head.textContent = last = row.variable.short; at.textContent = row.variable.level;
      if (sorted.lead !== null) { tr.className = ""; head.className = ""; }
      tr.append(head, at, ...row.percent.map((_, k) => cell(row, k, view)));
      return tr;
    }));
    const options = (name) => pick(name).selectedOptions[0].text;
    card.caption.textContent = `${options("ours")} against ${options("theirs")}, ${options("region")}: ${options("score")}, ` +
      (view === "score" ? "colours show the change in per cent" : "change in per cent");
    card.tHead.querySelectorAll("button").forEach((button, k) => {
      const state = sorted.lead !== k ? "none" : sorted.down ? "descending" : "ascending";
      button.parentElement.setAttribute("aria-sort", state);
    });
    document.getElementById("card-count").textContent = `${shown.length} of ${data.variables.length} rows`;
  }

  const labels = Object.entries(data.labels);
  fill(pick("ours"), labels);
  fill(pick("theirs"), labels);
  pick("theirs").selectedIndex = Math.min(1, labels.length - 1);
  fill(pick("region"), data.regions.map((name, k) => [k, name]));
  fill(pick("score"), data.scores.map((score, k) => [k, score.title]));
  fill(pick("variable"), [["all", "all"], ...distinct(data.variables.map((v) => v.short)).map((v) => [v, v])]);
  const levels = distinct(data.variables.map((v) => v.level)).sort((a, b) => a - b);
  fill(pick("level"), [["all", "all"], ...levels.map((level) => [level, level ? level + " hPa" : "surface"])]);
  [...card.tHead.querySelectorAll("th.lead")].forEach((th, k) => {
    const button = document.createElement("button");
    button.textContent = th.textContent; button.title = "sort by this lead time";
    button.addEventListener("click", () => {
      sorted = sorted.lead !== k ? {lead: k, down: false} : sorted.down ? {lead: null, down: false} : {lead: k, down: true};
      draw();
    });
    th.replaceChildren(button);
  });
  controls.addEventListener("change", draw);
  controls.hidden = false;
  draw();

  // a table of numbers: a click on a head sorts its rows, a word leaves those that hold it
  const table = document.getElementById("table"), find = document.getElementById("find");
  if (table) {
    const number = (text) => { const x = parseFloat(text.replace("−", "-")); return Number.isNaN(x) ? Infinity : x; };
    const heads = [...table.tHead.rows].at(-1).cells;
    [...heads].forEach((th, k) => {
      const button = document.createElement("button");
      button.textContent = th.textContent; button.title = "sort by this column";
      button.addEventListener("click", () => {
        const up = th.getAttribute("aria-sort") === "ascending" ? -1 : 1, words = k < 2;
        const of = (row) => row.cells[k].textContent;
        const order = (a, b) => up * (words ? of(a).localeCompare(of(b)) : number(of(a)) - number(of(b)) || 0);
        table.tBodies[0].append(...[...table.tBodies[0].rows].sort(order));
        [...heads].forEach((other) => other.removeAttribute("aria-sort"));
        th.setAttribute("aria-sort", up > 0 ? "ascending" : "descending");
      });
      th.replaceChildren(button);
    });
    find.parentElement.hidden = false;
    find.addEventListener("input", () => {
      const words = find.value.toLowerCase().split(/\s+/);
      for (const row of table.tBodies[0].rows) row.hidden = !words.every((w) => row.textContent.toLowerCase().includes(w));
    });
  }
})();
