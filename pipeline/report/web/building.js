// Sections about the build: its funnel, its histories, its pace and cost.

/** Stages of attempts and then of pairs, with names for what passes them. Annotation is of responses and not here. */
const STAGES = [
  ["sample", "With an active dimension"],
  ["mine", "Drawn from a thread"],
  ["generate", "Answered by the model"],
  ["validate", "Within the rules"],
  ["verify", "Confirmed by the judge"],
  ["assemble", "Given a history"],
  ["portrait", "Given a portrait"],
];

/** Return the attempts left after each stage that rejected any: `[name, number]`. */
function survivors(counts) {
  const dropped = Object.fromEntries(STAGES.map(([stage]) => [stage, 0]));
  for (const [reason, number] of Object.entries(counts.rejected)) {
    const stage = reason.split("/")[0];
    if (Object.hasOwn(dropped, stage)) dropped[stage] += number;
  }
  const { sample, mine, generate, validate, verify } = dropped;
  let left = counts.pairs_accepted + sample + mine + generate + validate + verify;
  const steps = [["Attempts", left]];
  for (const [stage, name] of STAGES) {
    left -= dropped[stage];
    if (dropped[stage] || stage === "validate") steps.push([name, left]);
  }
  return steps;
}

function funnel(report) {
  const { counts, attempts } = report;
  if (!counts.pairs_asked) return section("funnel", "Funnel", none("The build has no pairs."));
  const steps = survivors(counts);
  const tries = steps[0][1];
  const rows = steps.map(([name, value]) => ({ name, value, text: `${count(value)} (${portion(value, tries)})` }));
  const answer =
    `${portion(counts.pairs_accepted, tries)} of ${many(tries, "attempt")} gave a pair: ` +
    `${count(counts.pairs_accepted)} of the ${count(counts.pairs_asked)} configured. ` +
    `${count(counts.pairs_lost)} were lost (${portion(counts.pairs_lost, counts.pairs_asked)}; ` +
    `${count(counts.pairs_unanswered)} of them by failed requests), and ` +
    `${many(counts.examples, "example")} ${counts.examples === 1 ? "was" : "were"} written.`;
  return section(
    "funnel",
    "Funnel",
    threadsFigure(counts.threads),
    figure("What became of the attempts?", answer, bars(rows)),
    attemptsFigure(attempts),
    cleaningFigure(counts.cleaned),
    reasonsFigure(counts.rejected),
  );
}

function cleaningFigure(cleaned) {
  const entries = Object.entries(cleaned).toSorted((a, b) => b[1] - a[1]);
  if (!entries.length) return null;
  const rows = entries.map(([name, value]) => ({ name, value, text: count(value) }));
  const answer = `Most often by ${short(entries[0][0], 60)}: ${many(entries[0][1], "text")}.`;
  return figure("How were the model's texts cleaned?", answer, bars(rows), {
    how: "Texts that each step of cleaning changed before they were judged, accepted or not.",
  });
}

function attemptsFigure(attempts) {
  const last = attempts.findLastIndex((number) => number > 0);
  if (last < 0) return null;
  const all = total(attempts);
  const texts = attempts.map((number, k) => `attempt ${k + 1}\n${many(number, "pair")} (${portion(number, all)})`);
  const marks = Array.from({ length: last + 1 }, (_, k) => ({ at: k + 0.5, text: count(k + 1) }));
  return figure(
    "Which attempt gave the pair?",
    `The first gave ${portion(attempts[0], all)} of the pairs.`,
    columns("Pairs by attempt", attempts.slice(0, last + 1), { texts, marks }),
    { numbers: [["Attempt", "Pairs"], attempts.map((number, k) => [count(k + 1), count(number)])] },
  );
}

function reasonsFigure(rejected) {
  const entries = Object.entries(rejected).toSorted((a, b) => b[1] - a[1]);
  if (!entries.length) return null;
  const all = total(entries.map(([, number]) => number));
  const rows = entries.map(([name, value]) => ({ name, value, text: `${count(value)} (${portion(value, all)})` }));
  const answer = `${count(all)} rejections; most often ${short(entries[0][0], 60)}.`;
  return figure("Why were rows rejected?", answer, bars(rows), {
    how: "By stage and reason. A rejection is an attempt; for assemble and portrait a pair, for annotate a response.",
  });
}

/** Totals in the funnel of threads, in order; all other counts are reasons for rows that were left out. */
const TOTALS = [
  ["posts/read", "posts read"],
  ["responses/read", "responses read"],
  ["threads", "threads left"],
  ["responses", "responses in them"],
  ["threads/used", "threads used"],
  ["responses/annotated", "responses annotated"],
];

function threadsFigure(threads) {
  const entries = Object.entries(threads);
  if (!entries.length) return null;
  const number = (name) => threads[name] ?? 0;
  const drawn = (list) => bars(list.map(([name, value]) => ({ name, value, text: count(value) })));
  const totals = TOTALS.filter(([name]) => number(name)).map(([name, words]) => [words, number(name)]);
  const known = new Set(TOTALS.map(([name]) => name));
  const lost = entries.filter(([name]) => !known.has(name)).toSorted((a, b) => b[1] - a[1]);
  return [
    figure(
      "What was read before pairs were mined?",
      `${count(number("posts/read"))} posts with ${count(number("responses/read"))} responses were read, ` +
        `and ${many(number("threads/used"), "thread")} used.`,
      drawn(totals),
    ),
    lost.length > 0 &&
      figure("What was left out?", `Most often ${short(lost[0][0], 60)}: ${count(lost[0][1])}.`, drawn(lost)),
  ];
}

function history(report) {
  const { items, support, contradicting, repeated } = report.history;
  const all = total(items);
  const most = items.findLastIndex((number) => number > 0);
  if (most < 1) return section("history", "History", none("The examples have no history items."));
  const texts = items.map((number, k) => `${many(k, "item")}\n${many(number, "example")} (${portion(number, all)})`);
  const good = contradicting + repeated === 0;
  return section(
    "history",
    "History",
    figure(
      "How much of the direction does the history support?",
      `${percent(support.mean)} of an example's dimensions on average, ${percent(support.median)} at the median. ` +
        (good
          ? "No history contradicts its example, and none repeats a text."
          : `An item contradicts ${many(contradicting, "example")}, and ${count(repeated)} repeat a text.`),
      histogram("Examples by share of dimensions that an item supports", support, "", 2),
      { how: "Share of the example's dimensions that at least one history item supports." },
    ),
    figure(
      "How many items does a history have?",
      `${portion(items[most], all)} of the examples have ${many(most, "item")}, the largest number.`,
      columns("Examples by history items", items.slice(0, most + 1), { texts, marks: middles(most + 1) }),
      { numbers: [["Items", "Examples"], items.map((number, k) => [count(k), count(number)])] },
    ),
  );
}

function cost(report) {
  const { cost: used, pace, runs } = report;
  const money = (price) => `${decimal(price)}${THIN}${short(used.currency ?? "", 12)}`.trim();
  const rows = [
    ["Prompt tokens", count(used.prompt_tokens)],
    ["Completion tokens", count(used.completion_tokens)],
    used.reasoning_tokens > 0 && ["Reasoning tokens among them", count(used.reasoning_tokens)],
    ["Tokens per example", decimal(used.tokens_per_example, 1)],
    ["Time", duration(used.seconds)],
    used.tokens_per_second !== null && ["Tokens per second", decimal(used.tokens_per_second, 1)],
    used.prompt_price !== null && ["Price of a million prompt tokens", money(used.prompt_price)],
    used.completion_price !== null && ["Price of a million completion tokens", money(used.completion_price)],
    used.total !== null && ["Total", money(used.total)],
  ].filter(Boolean);
  const said = used.total === null ? "" : `, ${money(used.total)}`;
  return section(
    "cost",
    "Throughput and cost",
    figure(
      "What did the build use?",
      `${compact(used.prompt_tokens + used.completion_tokens)} tokens in ${duration(used.seconds)}${said}.`,
      table(["What", "Amount"], rows, "Cost"),
    ),
    pace.length > 1 && pace.at(-1).seconds > 0 && paceFigure(pace),
    runs.some((run) => Object.keys(run.time).length > 0) && timeFigure(runs),
    runs.length > 0 && figure("Which runs made it?", null, runTable(runs), { wide: true }),
  );
}

function paceFigure(pace) {
  const points = pace.map((p) => ({
    x: p.seconds,
    y: p.pairs,
    text:
      `${duration(p.seconds)}\n${many(p.pairs, "pair")}\n` +
      `${compact(p.prompt_tokens)} prompt and ${compact(p.completion_tokens)} completion tokens`,
  }));
  const end = pace.at(-1);
  return figure(
    "How fast was the build?",
    `${many(end.pairs, "pair")} in ${duration(end.seconds)}, ${decimal((60 * end.pairs) / end.seconds, 1)} per minute.`,
    curve("Pairs done over time", points),
    { how: "Pairs accepted or lost over working time, without the time between runs." },
  );
}

const STATES = {
  busy: "Busy: the window was full",
  few: "Too few requests: too few shards or pairs to fill the window",
  stragglers: "Stragglers: the last replies of shards",
  pipeline: "The pipeline: no more requests were ready",
  limited: "Rate limits: the endpoint, or the budget, asked to wait",
  engine: "The engine: it started, or did not answer",
};

function timeFigure(runs) {
  const roles = ["generation", "verification"].filter((role) => runs.some((run) => run.time[role]));
  const spent = (role, state) => total(runs.map((run) => run.time[role]?.seconds[state] ?? 0));
  const whole = (role) => total(Object.keys(STATES).map((state) => spent(role, state)));
  const names = { generation: "Writing model", verification: "Judge" };
  const busy = roles.map((role) => `${names[role]}: ${portion(spent(role, "busy"), whole(role))} busy`);
  return figure(
    "Where did the time of the engine go?",
    `${busy.join("; ")}.`,
    table(
      ["State", ...roles.flatMap((role) => [names[role], "Share"])],
      Object.entries(STATES).map(([state, words]) => [
        words,
        ...roles.flatMap((role) => [duration(spent(role, state)), portion(spent(role, state), whole(role))]),
      ]),
      "Time of the engine",
    ),
    { how: "Time of the clients that ask the model, a mean over processes, summed over runs." },
  );
}

function runTable(runs) {
  return table(
    [
      ...["Started", "Took", "Ended", "Requests", "Replayed", "Prompt tokens", "Completion tokens", "Server restarts"],
      ...["In flight", "Seconds in queue", "Seconds at the model"],
    ],
    runs.map((run) => [
      moment(run.started),
      duration(run.seconds),
      run.status,
      count(run.requests_sent),
      count(run.requests_replayed),
      count(run.prompt_tokens),
      count(run.completion_tokens),
      count(run.server_restarts),
      decimal(run.in_flight, 1),
      decimal(run.queue_seconds, 2),
      decimal(run.request_seconds, 2),
    ]),
    "Runs",
  );
}

function notes(report) {
  const said = [...report.missed_gates, ...report.notes];
  if (!said.length) return null;
  return section(
    "notes",
    "Notes",
    el(
      "ul",
      { class: "notes" },
      said.map((text) => el("li", {}, short(text, 800))),
    ),
  );
}
