// The head of the page and its overview.

function themeButton() {
  const next = { auto: "light", light: "dark", dark: "auto" };
  const button = el("button", { type: "button", class: "theme", id: "theme" });
  const set = (theme) => {
    document.documentElement.dataset.theme = theme;
    button.replaceChildren(`Theme: ${theme}`);
  };
  button.addEventListener("click", () => set(next[document.documentElement.dataset.theme]));
  set("auto");
  return button;
}

function heading(report) {
  const fact = (name, value, full) => el("div", {}, el("dt", {}, name), el("dd", { title: full }, value));
  return el(
    "header",
    { class: "top" },
    el("p", { class: "kicker" }, "everyuser dataset report"),
    themeButton(),
    el("h1", {}, report.name),
    el(
      "dl",
      { class: "facts" },
      fact("Model", report.model),
      fact("Measured", moment(report.created)),
      fact("Fingerprint", el("code", {}, short(report.fingerprint, 17)), report.fingerprint),
      fact("Files", el("code", {}, short(report.files_digest, 17)), report.files_digest),
      fact("Schema", report.schema_version),
      fact("Report", report.report_version),
    ),
  );
}

function glance(report) {
  const figures = [
    ["Examples", count(report.examples)],
    ["Pairs", count(report.pairs)],
    ["Posts", count(report.posts)],
    ["Distinct directions", count(report.diversity.distinct_directions)],
    ["Dimensions", count(report.dimensions.filter((d) => d.positive + d.negative).length)],
    ["Tokens per example", count(report.cost.tokens_per_example)],
  ];
  const found = checks(report);
  const of = (word) => found.filter((check) => check.verdict === word).length;
  const line = [
    `${count(of(FINE))} of ${many(found.length, "check")} are fine`,
    of(LOOK) > 0 && `, ${count(of(LOOK))} deserve${of(LOOK) === 1 ? "s" : ""} a look`,
    of(PROBLEM) > 0 && `, ${count(of(PROBLEM))} found a problem`,
    of(TOO_FEW) > 0 && `, ${count(of(TOO_FEW))} ${of(TOO_FEW) === 1 ? "has" : "have"} too few rows`,
    ".",
  ];
  return section(
    "glance",
    "At a glance",
    el(
      "dl",
      { class: "tiles" },
      figures.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))),
    ),
    found.length ? el("p", { class: "answer" }, line) : none("There are no examples to check."),
    found.length > 0 && el("ul", { class: "checks" }, found.map(check)),
    report.splits.length > 0 && splitTable(report),
  );
}

function check({ name, value, verdict: word, why, section }) {
  return el(
    "li",
    {},
    el("span", { class: `verdict ${word.replaceAll(" ", "-")}` }, word),
    el("div", {}, el("a", { href: `#${section}` }, name), el("p", {}, why)),
    el("span", { class: "value" }, value),
  );
}

function splitTable(report) {
  const rows = report.splits.map((s) => [
    s.name,
    count(s.examples),
    portion(s.examples, report.examples),
    count(s.pairs),
    count(s.posts),
  ]);
  return figure(
    "How large are the splits?",
    null,
    table(["Split", "Examples", "Share", "Pairs", "Posts"], rows, "Splits"),
  );
}
