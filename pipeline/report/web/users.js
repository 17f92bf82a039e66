// Section about users, people with several pairs each, and what the browser says of one.

function users(report, open) {
  const { users: u } = report;
  if (!u) return null;
  const dimensions = report.dimensions.map((d, k) => ({ ...d, positive: u.positive[k], negative: u.negative[k] }));
  return section(
    "users",
    "Users",
    userSplits(u, report.examples > report.pairs),
    userCoverage(dimensions.filter((d) => d.positive + d.negative), report, open),
    userActive(u),
    u.similarity && userSimilarity(u),
    userHistory(u),
  );
}

function userSplits(u, isMirrored) {
  const rows = u.splits.map((s) => [s.name, count(s.users), count(s.fewest), decimal(s.mean, 1), count(s.most)]);
  const seen = u.splits.find((s) => s.name === "test_seen_users");
  const answer =
    `${many(u.users, "user")}${isMirrored ? ", each with an opposite person in the mirrored rows" : ""}.` +
    (seen ? ` ${count(u.shared)} of the ${count(seen.users)} in test_seen_users are in train too, on other posts.` : "");
  return figure(
    "How many users are in each split?",
    answer,
    table(["Split", "Users", "Fewest pairs", "Mean", "Most pairs"], rows, "Users by split"),
    { how: "Pairs of a user that have rows in the split, of all kinds. Users without rows do not count." },
  );
}

function userCoverage(occur, report, open) {
  if (!occur.length) return null;
  const rows = occur.map((d) => [d.name, d.negative_label, count(d.negative), d.positive_label, count(d.positive)]);
  return figure(
    "Which preferences do the users have?",
    coverageAnswer(report, occur, "user"),
    coverageRows(occur, open),
    {
      wide: true,
      how:
        "Users with each pole of a dimension, on one scale; the opposite persons of the mirrored rows and the users of " +
        "test_seen_users are left out. Press Enter or click to list the examples of a dimension below.",
      numbers: [["Dimension", "Negative pole", "Users", "Positive pole", "Users"], rows],
    },
  );
}

function userActive(u) {
  const first = u.active.findIndex((number) => number > 0);
  if (first < 0) return null;
  const all = total(u.active);
  const mean = total(u.active.map((number, k) => number * k)) / all;
  const shown = u.active.slice(first);
  const texts = shown.map(
    (number, k) => `${many(first + k, "dimension")}\n${many(number, "user")} (${portion(number, all)})`,
  );
  return figure(
    "How many dimensions does a user have?",
    shown.length === 1
      ? `Always ${count(first)}.`
      : `From ${count(first)} to ${count(u.active.length - 1)}, ${decimal(mean, 1)} on average.`,
    columns("Users by active dimensions", shown, {
      texts,
      marks: shown.map((_, k) => ({ at: k + 0.5, text: count(first + k) })),
    }),
    { numbers: [["Active dimensions", "Users"], shown.map((number, k) => [count(first + k), count(number)])] },
  );
}

function userSimilarity({ similarity: s, similarity_sampled: sampled, distinct_directions: distinct }) {
  return figure(
    "How alike are the users?",
    `To the nearest other user the cosine is ${decimal(s.median)} at the median and ${decimal(s.largest)} at most. ` +
      `All users together have ${many(distinct, "distinct direction")}.`,
    histogram("Cosine of the nearest other user", s, "", 2),
    {
      how:
        `Cosine of the directions, of each of ${many(sampled, "user")} with the nearest other one among them: 1 is the ` +
        "same direction, 0 nothing in common.",
    },
  );
}

function userHistory({ shown }) {
  const texts = shown.map((share, k) => `${many(k, "item")}\n${percent(share)} of the user's dimensions`);
  return figure(
    "How much of a user does the history show?",
    shown.length > 1
      ? `The first item shows ${percent(shown[1])} of a user's dimensions, all items ${percent(shown.at(-1))}.`
      : "The rows have no history.",
    columns(
      "Dimensions shown, in percent, by history items",
      shown.map((share) => 100 * share),
      { texts, marks: middles(shown.length) },
    ),
    {
      how:
        "Mean share of the user's active dimensions, in percent, that one of the first items of a row's history is " +
        "about. Pairs and comments count in turn; a row with fewer items counts with all it has.",
      numbers: [["Items", "Dimensions shown"], shown.map((share, k) => [count(k), percent(share)])],
    },
  );
}

function userChecks({ users: u }) {
  if (!u) return [];
  const seen = u.splits.find((s) => s.name === "test_seen_users");
  const all = total(u.active);
  return [
    {
      name: "Users in two splits",
      value: count(u.leaked),
      verdict: u.leaked ? PROBLEM : FINE,
      why: "of train, validation and test; a user must be in one of them only.",
      section: "users",
    },
    seen && {
      name: "Users of test_seen_users in train",
      value: `${count(u.shared)} of ${count(seen.users)}`,
      verdict: u.shared < seen.users ? LOOK : FINE,
      why: "all of them should have rows in train; posts and replies are not shared.",
      section: "users",
    },
    {
      name: "Different directions of users",
      value: `${count(u.distinct_directions)} of ${count(all)}`,
      verdict: u.distinct_directions < all ? LOOK : FINE,
      why: "users with equal directions are the same person twice.",
      section: "users",
    },
  ].filter(Boolean);
}

/** Return what is known of one user: `rows` are the user's rows on this page. */
function userCard(rows, dimensions) {
  const [{ user_id: id, user_direction: direction, portrait }] = rows;
  const bySplit = [...Map.groupBy(rows, (row) => row.split)].map(
    ([split, of]) => `${split}: ${many(of.length, "row")} here, of ${many(of[0].user_pairs, "pair")}`,
  );
  return el(
    "section",
    { class: "text" },
    el("h4", {}, id),
    el(
      "p",
      { class: "meta" },
      bySplit.map((line) => el("span", {}, line)),
    ),
    chips(direction, dimensions, "Direction of the user"),
    el("p", { class: "prose", dir: "auto" }, portrait),
  );
}
