// The review: one pair at a time, its questions, and the answers, which stay in this browser until they are exported.

const ANSWERS = [
  ["first", "First", "1"],
  ["second", "Second", "2"],
  ["cannot tell", "Cannot tell", "3"],
];

/** Words of the questions by the sheet's style: about the writer of the replies, or the person whom they answer. */
const WORDS = {
  peer: {
    post: "Post",
    ask: "Which reply shows more of: ",
    who: "writer",
    lead: "Read the post and both replies. Each question names a trait of a writer: say which reply shows that trait more. ",
    unsure: "where neither shows the trait, or both alike",
  },
  assistant: {
    post: "Message",
    ask: "Which reply suits this person better: ",
    who: "person",
    lead: "Read the message and an assistant's two replies. Each question names a person: say which reply suits that person better. ",
    unsure: "where neither suits the person better",
  },
};

/** Return the answers and the reviewer that this browser keeps of a page, and a function that keeps them. */
function memory(digest, pairs) {
  const key = `everyuser review ${digest}`;
  const known = new Set(ANSWERS.map(([answer]) => answer));
  const kept = { reviewer: "", answers: Object.fromEntries(pairs.map((pair) => [pair.id, {}])) };
  try {
    const stored = JSON.parse(localStorage.getItem(key)) ?? {};
    if (typeof stored.reviewer === "string") kept.reviewer = stored.reviewer;
    for (const { id, questions } of pairs)
      for (const slug of Object.keys(questions))
        if (known.has(stored.answers?.[id]?.[slug])) kept.answers[id][slug] = stored.answers[id][slug];
  } catch {
    // Nothing is kept, or it is no answer of this page.
  }
  const keep = () => {
    try {
      localStorage.setItem(key, JSON.stringify(kept));
      return true;
    } catch {
      return false;
    }
  };
  return { kept, keep };
}

function review({ review_version, digest, sheet }) {
  const pairs = sheet.pairs;
  const words = WORDS[sheet.style];
  const { kept, keep } = memory(digest, pairs);
  const all = pairs.flatMap((pair, at) => Object.keys(pair.questions).map((slug) => ({ at, slug })));
  const answerOf = ({ at, slug }) => kept.answers[pairs[at].id][slug];
  // The question in turn, by its place in `all`.
  let turn = Math.max(0, all.findIndex((question) => !answerOf(question)));

  const bar = el("progress", { max: all.length, "aria-label": "Answered questions" });
  const said = el("span", { id: "said", role: "status" });
  const warning = el("p", { class: "warning", hidden: true }, "This browser keeps no answers: export them before you leave.");
  const shown = el("div", { id: "pair" });
  const reviewer = el("input", {
    id: "reviewer",
    maxlength: 100,
    placeholder: "Your name",
    "aria-label": "Your name",
    value: kept.reviewer,
    oninput: () => {
      kept.reviewer = reviewer.value;
      save();
    },
  });

  function save() {
    warning.hidden = keep();
    const answered = all.filter(answerOf).length;
    bar.value = answered;
    said.textContent = `${count(answered)} of ${many(all.length, "question")} answered`;
  }

  function answer(question, given) {
    kept.answers[pairs[question.at].id][question.slug] = given;
    save();
    const place = all.indexOf(question);
    show(place + 1 < all.length ? place + 1 : place);
  }

  /** Show the pair of a question, and mark the question. */
  function show(place) {
    const isOther = !shown.hasChildNodes() || all[place].at !== all[turn].at;
    turn = place;
    const pair = pairs[all[turn].at];
    shown.replaceChildren(
      turner(),
      el(
        "article",
        { "data-pair": pair.id },
        passage(words.post, pair.prompt),
        el("div", { class: "two" }, passage("First reply", pair.replies[0]), passage("Second reply", pair.replies[1])),
        el(
          "ol",
          { class: "questions" },
          all.filter(({ at }) => at === all[turn].at).map(question),
        ),
      ),
    );
    if (isOther) scrollTo({ top: 0 });
    else shown.querySelector("[aria-current]").scrollIntoView({ block: "nearest" });
  }

  function turner() {
    const at = all[turn].at;
    const to = (text, other) =>
      el(
        "button",
        { type: "button", class: "plain", disabled: !pairs[other], onclick: () => turnTo(other) },
        text,
      );
    return el(
      "p",
      { class: "turner" },
      to("\u2190 Previous", at - 1),
      el("span", {}, `Pair ${count(at + 1)} of ${count(pairs.length)}`),
      to("Next \u2192", at + 1),
    );
  }

  function turnTo(at) {
    if (pairs[at]) show(all.findIndex((question) => question.at === at));
  }

  function passage(name, content) {
    return el("section", { class: "text" }, el("h3", {}, name), el("p", { class: "prose", dir: "auto" }, content));
  }

  function question(each) {
    const dimension = sheet.dimensions[each.slug];
    const pole = pairs[each.at].questions[each.slug];
    const sought = dimension[pole];
    const other = dimension[pole === "positive" ? "negative" : "positive"];
    const buttons = ANSWERS.map(([value, text, key]) =>
      el(
        "button",
        {
          type: "button",
          "data-answer": value,
          "aria-pressed": String(answerOf(each) === value),
          onclick: () => answer(each, value),
        },
        text,
        el("kbd", {}, key),
      ),
    );
    return el(
      "li",
      { "data-slug": each.slug, "aria-current": each === all[turn] && "step" },
      el(
        "div",
        {},
        el("h3", {}, words.ask, el("strong", {}, sought.label), "?"),
        el("p", {}, `The ${words.who} `, el("strong", {}, sought.description), "."),
        el("p", {}, `The opposite, ${other.label}: the ${words.who} ${other.description}.`),
        sheet.style === "peer" && el("p", {}, `${dimension.name}: ${dimension.question}`),
      ),
      el("div", { class: "choices", role: "group", "aria-label": sought.label }, buttons),
    );
  }

  function onKey(event) {
    if (event.target === reviewer || event.ctrlKey || event.metaKey || event.altKey) return;
    const given = ANSWERS.find(([, , key]) => key === event.key);
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const leaf = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (given) answer(all[turn], given[0]);
    else if (step && all[turn + step]) show(turn + step);
    else if (leaf) turnTo(all[turn].at + leaf);
    if (given || step || leaf) event.preventDefault();
  }

  /** Save the labels as a file, once they have a name. Pairs without an answer are left out. */
  function download() {
    // Without a name two exports of one person would count as two reviewers.
    reviewer.setCustomValidity(reviewer.value.trim() ? "" : "Type your name or initials, which your labels go by.");
    if (!reviewer.reportValidity()) return;
    const answers = Object.fromEntries(Object.entries(kept.answers).filter(([, given]) => Object.keys(given).length));
    const { fingerprint, settings } = sheet;
    const [name, exported] = [kept.reviewer.trim(), Date.now()];
    const labels = { review_version, fingerprint, digest, settings, reviewer: name, exported, answers };
    const url = URL.createObjectURL(new Blob([JSON.stringify(labels, null, 1)], { type: "application/json" }));
    const file = `labels-${digest}-${name.replace(/[^\p{L}\p{N}]+/gu, "_")}.json`;
    el("a", { href: url, download: file }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }

  document.title = visible(`${short(sheet.name, 80)} \u2013 review`);
  document.getElementById("main").append(
    el(
      "header",
      { class: "top" },
      el("p", { class: "kicker" }, "everyuser review"),
      el("h1", {}, sheet.name),
      el(
        "p",
        { class: "answer" },
        words.lead,
        `\u201cCannot tell\u201d is a good answer ${words.unsure}. Keys 1, 2 and 3 answer, `,
        "up and down change the question, left and right the pair. Answers stay in this browser; export them at the end.",
      ),
    ),
    el(
      "div",
      { class: "bar" },
      bar,
      said,
      reviewer,
      el("button", { type: "button", id: "export", onclick: download }, "Export labels"),
      warning,
    ),
    shown,
  );
  document.addEventListener("keydown", onKey);
  save();
  show(turn);
}

review(JSON.parse(document.getElementById("data").textContent));
