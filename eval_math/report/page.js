"use strict";
// The trace viewer. All text of models enters the page through textContent, never as markup.
(() => {
  const byId = (id) => document.getElementById(id);
  const groups = JSON.parse(byId("data").textContent).groups;
  const state = { group: 0, run: 1, filter: "all", query: "", problem: null };
  const MOST_CELLS = 4e6;
  const ALIKE = 0.3;
  const haystacks = new Map();

  const make = (tag, name, text) => {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const group = () => groups[state.group];
  const single = () => group().runs.length < 2;
  const left = (problem) => problem.runs[0];
  const right = (problem) => (single() ? null : problem.runs[state.run]);
  const shown = (problem) => right(problem) || left(problem);
  const isRight = (trace) => Boolean(trace) && trace.verdict === "correct";
  const count = (n) => n.toLocaleString("en");

  const FILTERS = {
    all: ["all", () => true],
    gained: ["gained", (p) => Boolean(right(p)) && right(p).change === "gained"],
    lost: ["lost", (p) => Boolean(right(p)) && right(p).change === "lost"],
    wrong: ["both wrong", (p) => left(p) && right(p) && !isRight(left(p)) && !isRight(right(p))],
    solved: ["right", (p) => isRight(left(p))],
    failed: ["wrong", (p) => !isRight(left(p))],
  };
  const offered = () => (single() ? ["all", "solved", "failed"] : ["all", "gained", "lost", "wrong"]);

  function fillChoices() {
    byId("benchmark").replaceChildren(...groups.map((each, i) => new Option(each.benchmark, i)));
    byId("benchmark-field").hidden = groups.length < 2;
    fillMethods();
  }

  function fillMethods() {
    const options = group().runs.map((run, i) => new Option(run.name, i)).slice(1);
    byId("method").replaceChildren(...options);
    byId("method-field").hidden = single();
    state.run = group().start;
    byId("method").value = String(state.run);
    state.filter = "all";
    state.problem = typical();
    const { problems, total, benchmark } = group();
    const order = single() ? "" : ", gained and lost ones first";
    byId("shown").textContent = problems.length < total
      ? `This page carries the traces of ${count(problems.length)} of ${count(total)} problems of ${benchmark}${order}; the run folders hold all.`
      : `All ${count(total)} problems of ${benchmark}${order}.`;
  }

  // A problem that both runs solve, with about the saving of the middle one: what a reader should see first.
  function typical() {
    if (single()) return null;
    const kept = (p) => right(p).tokens[0] / Math.max(1, left(p).tokens[0]);
    const solved = group().problems.filter((p) => isRight(left(p)) && isRight(right(p)));
    return solved.sort((a, b) => kept(a) - kept(b))[Math.floor(solved.length / 2)] || null;
  }

  function haystack(problem) {
    if (!haystacks.has(problem)) {
      const said = problem.runs.filter(Boolean).map((trace) => trace.sentences.join("") + trace.answer);
      haystacks.set(problem, [problem.id, problem.question, problem.answer, ...said].join(" ").toLowerCase());
    }
    return haystacks.get(problem);
  }

  function matches(problem) {
    if (!state.query) return true;
    const text = haystack(problem);
    return state.query.toLowerCase().split(/\s+/).every((word) => text.includes(word));
  }

  function fillFilters() {
    const changes = single() ? null : group().runs[state.run].changes;
    const totals = changes ? { gained: changes[0], lost: changes[1] } : {};
    byId("filters").replaceChildren(...offered().map((name) => {
      const [label, keeps] = FILTERS[name];
      const button = make("button", "", `${label} `);
      const here = group().problems.filter(keeps).length;
      button.append(make("small", "", totals[name] > here ? `${count(here)} of ${count(totals[name])}` : count(here)));
      button.type = "button";
      button.dataset.filter = name;
      button.setAttribute("aria-pressed", String(name === state.filter));
      button.onclick = () => { state.filter = name; fillFilters(); fillProblems(); };
      return button;
    }));
  }

  const SIGNS = { correct: ["✓", "right"], incorrect: ["✗", "wrong"] };
  const sign = (trace) => (trace ? SIGNS[trace.verdict] || ["–", "open"] : ["·", "open"]);

  function fillProblems() {
    const found = group().problems.filter((p) => FILTERS[state.filter][1](p) && matches(p));
    if (!found.includes(state.problem)) state.problem = found[0] || null;
    const entries = found.map((problem) => {
      const button = make("button");
      button.type = "button";
      button.append(make("span", "id", problem.id), signs(problem), make("span", "size", sizes(problem)));
      button.setAttribute("aria-current", String(problem === state.problem));
      button.onclick = () => choose(problem, button);
      const entry = make("li");
      entry.append(button);
      return entry;
    });
    byId("problems").replaceChildren(...(entries.length ? entries : [make("li", "none", "No problem matches.")]));
    reveal();
    read();
  }

  function reveal() {
    const list = byId("problems");
    const current = list.querySelector("[aria-current=true]");
    if (current) list.scrollTop = current.offsetTop - list.offsetTop - list.clientHeight / 3;
  }

  function signs(problem) {
    const box = make("span");
    const traces = single() ? [left(problem)] : [left(problem), right(problem)];
    traces.forEach((trace, i) => {
      const [text, kind] = sign(trace);
      const mark = make("span", kind, text);
      mark.setAttribute("aria-label", trace ? trace.verdict : "not run");
      if (i) box.append(" → ");
      box.append(mark);
    });
    return box;
  }

  function sizes(problem) {
    const traces = single() ? [left(problem)] : [left(problem), right(problem)];
    return `${traces.map((trace) => (trace ? count(trace.tokens[0]) : "–")).join(" → ")} thinking tokens`;
  }

  function choose(problem, button) {
    state.problem = problem;
    byId("problems").querySelectorAll("[aria-current=true]").forEach((b) => b.setAttribute("aria-current", "false"));
    button.setAttribute("aria-current", "true");
    read();
  }

  function read() {
    const problem = state.problem;
    if (!problem) return byId("reading").replaceChildren(make("p", "note", "Nothing to read here."));
    const question = make("div", "question");
    question.append(make("p", "", problem.question || `Problem ${problem.id}`));
    const reference = make("div", "reference", "reference answer ");
    reference.append(make("b", "", problem.answer || "–"));
    question.append(reference);
    const pair = make("div", "pair");
    const runs = single() ? [0] : [0, state.run];
    const longest = Math.max(1, ...runs.map((run) => visible(problem.runs[run])));
    const gone = single() ? NOTHING : difference(left(problem), right(problem));
    pair.append(...runs.map((run, i) => column(group().runs[run].name, problem.runs[run], longest, i ? NOTHING : gone)));
    byId("reading").replaceChildren(question, pair, key(gone));
  }

  // What the second trace no longer says. `whole`: the two are alike enough to strike out other sentences as well.
  const NOTHING = { sentences: new Set(), whole: false, compared: false };

  function difference(first, second) {
    if (!first || !second) return NOTHING;
    const [a, b] = [first, second].map((trace) => trace.sentences.map(plain));
    const same = common(a, b);
    const sentences = new Set(a.keys());
    same.forEach((i) => sentences.delete(i));
    return { sentences, whole: same.size >= ALIKE * Math.max(1, b.length), compared: true };
  }

  const plain = (sentence) => sentence.toLowerCase().replace(/[\s.,;:!?"'*]+/g, " ").trim();

  // Positions in `a` of a longest common subsequence with `b`; of long traces, of sentences found anywhere in `b`.
  function common(a, b) {
    const found = new Set();
    if ((a.length + 1) * (b.length + 1) > MOST_CELLS) {
      const there = new Set(b);
      a.forEach((sentence, i) => { if (there.has(sentence)) found.add(i); });
      return found;
    }
    const width = b.length + 1;
    const best = new Uint16Array((a.length + 1) * width);
    for (let i = a.length - 1; i >= 0; i--) {
      for (let j = b.length - 1; j >= 0; j--) {
        best[i * width + j] = a[i] === b[j]
          ? best[(i + 1) * width + j + 1] + 1
          : Math.max(best[(i + 1) * width + j], best[i * width + j + 1]);
      }
    }
    for (let i = 0, j = 0; i < a.length && j < b.length;) {
      if (a[i] === b[j]) { found.add(i); i++; j++; }
      else if (best[(i + 1) * width + j] >= best[i * width + j + 1]) i++;
      else j++;
    }
    return found;
  }

  const visible = (trace) => (trace ? trace.tokens[0] + trace.tokens[1] : 0);

  function column(name, trace, longest, gone) {
    const box = make("article", "trace");
    const head = make("header");
    head.append(make("h3", "", name), badges(trace));
    box.append(head);
    if (!trace) {
      box.append(make("p", "silent", "This run has no trace of this problem."));
      return box;
    }
    const track = make("div", "track");
    track.append(ribbon(trace, longest, gone));
    box.append(counts(trace, gone), track, thinking(name, trace, gone), answer(trace));
    return box;
  }

  function badges(trace) {
    const box = make("div", "badges");
    if (!trace) return box;
    const [text, kind] = sign(trace);
    box.append(make("span", `badge ${kind}`, `${text} ${trace.verdict.replace("_", " ")}`));
    if (trace.cut) box.append(make("span", "badge", "cut off"));
    if (trace.change) box.append(make("span", `badge ${trace.change === "gained" ? "right" : "wrong"}`, trace.change));
    return box;
  }

  function counts(trace, gone) {
    const [think, say, probe, latent] = trace.tokens;
    const line = make("p", "counts");
    line.append(make("b", "", count(think)), ` thinking + ${count(say)} answer tokens`);
    if (probe) line.append(` + ${count(probe)} probe tokens`);
    if (latent) line.append(` + ${count(latent)} latent steps`);
    const n = trace.reflections.length;
    line.append(`, ${n === 1 ? "1 sentence looks" : `${count(n)} sentences look`} back`);
    const removed = trace.reflections.filter((i) => gone.sentences.has(i)).length;
    if (gone.compared && n) line.append(`, ${removed === n ? "all" : count(removed)} of them gone in the other trace`);
    return line;
  }

  function ribbon(trace, longest, gone) {
    const bar = make("div", "ribbon");
    bar.setAttribute("role", "img");
    bar.setAttribute("aria-label", `${count(visible(trace))} tokens, longest of the two ${count(longest)}`);
    bar.style.width = `${(100 * visible(trace)) / longest}%`;
    const back = new Set(trace.reflections);
    const characters = trace.sentences.reduce((sum, sentence) => sum + sentence.length, 0) || 1;
    const runs = [];
    trace.sentences.forEach((sentence, i) => {
      const last = runs[runs.length - 1];
      const share = (sentence.length * trace.tokens[0]) / characters;
      const kind = !back.has(i) ? "" : gone.sentences.has(i) ? "gone" : "looks-back";
      if (last && last.kind === kind) last.size += share;
      else runs.push({ kind, size: share });
    });
    bar.append(...runs.map((run) => piece(run.kind, run.size)), piece("says", trace.tokens[1]));
    return bar;
  }

  function piece(name, size) {
    const span = make("span", name);
    span.style.flexGrow = String(size);
    return span;
  }

  function thinking(name, trace, gone) {
    const box = make("div", "thinking");
    box.tabIndex = 0;
    box.setAttribute("role", "region");
    box.setAttribute("aria-label", `thinking of ${name}`);
    if (!trace.sentences.length) box.append(make("span", "silent", "no thinking"));
    const back = new Set(trace.reflections);
    trace.sentences.forEach((sentence, i) => {
      const removed = gone.sentences.has(i);
      if (!back.has(i) && !(removed && gone.whole)) return box.append(sentence);
      const text = sentence.trimEnd();
      const mark = back.has(i) ? make("mark", removed ? "gone" : "", text) : make("span", "rest-gone", text);
      box.append(mark, sentence.slice(text.length));
    });
    return box;
  }

  function answer(trace) {
    const box = make("div", "answer");
    const read = trace.extracted === null ? "" : `, read as ${trace.extracted}`;
    box.append(make("span", "small", `answer${read}`));
    box.append(trace.answer.trim() ? trace.answer.trim() : make("span", "silent", "no answer text"));
    if (trace.reason && trace.verdict !== "correct") box.append(make("span", "small", trace.reason));
    return box;
  }

  function key(gone) {
    const box = make("div", "key");
    const removed = gone.compared ? [["gone", "sentence that looks back, gone in the other trace"]] : [];
    [["", "thinking"], ["looks-back", "sentence that looks back (wait, check, alternatively …)"], ...removed, ["says", "answer"]]
      .forEach(([name, text]) => {
        const entry = make("span");
        entry.append(make("i", name), text);
        box.append(entry);
      });
    return box;
  }

  function moveWithArrows(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const entry = event.target.closest("li");
    const next = step && entry && (step > 0 ? entry.nextElementSibling : entry.previousElementSibling);
    if (!next) return;
    event.preventDefault();
    next.querySelector("button").focus();
    next.querySelector("button").click();
  }

  // From the paired view into the traces of one problem; the page may not carry them.
  function open(button) {
    state.group = Number(button.dataset.group);
    byId("benchmark").value = String(state.group);
    fillMethods();
    state.run = Number(button.dataset.run);
    byId("method").value = String(state.run);
    byId("search").value = state.query = "";
    state.problem = group().problems.find((problem) => problem.id === button.dataset.open);
    refresh();
    byId("viewer").scrollIntoView();
    byId("problems").querySelector("[aria-current=true]")?.focus();
  }

  function offerTraces() {
    const carried = groups.map((each) => new Set(each.problems.map((problem) => problem.id)));
    document.querySelectorAll("[data-open]").forEach((button) => {
      button.disabled = !carried[Number(button.dataset.group)].has(button.dataset.open);
      button.onclick = () => open(button);
    });
  }

  function switchTheme() {
    const root = document.documentElement;
    const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    root.dataset.theme = (root.dataset.theme || system) === "dark" ? "light" : "dark";
  }

  const refresh = () => { fillFilters(); fillProblems(); };
  byId("theme").onclick = switchTheme;
  byId("benchmark").onchange = (event) => { state.group = Number(event.target.value); fillMethods(); refresh(); };
  byId("method").onchange = (event) => { state.run = Number(event.target.value); refresh(); };
  byId("search").oninput = (event) => { state.query = event.target.value.trim(); fillProblems(); };
  byId("problems").onkeydown = moveWithArrows;
  fillChoices();
  refresh();
  offerTraces();
})();
