// Composition of the page.

/** Mark the link of the section in view. */
function follow(nav) {
  const links = new Map([...nav.querySelectorAll("a")].map((link) => [link.hash.slice(1), link]));
  const mark = (entries) => {
    for (const { target } of entries.filter((entry) => entry.isIntersecting)) {
      for (const link of links.values()) link.removeAttribute("aria-current");
      const link = links.get(target.id);
      link.setAttribute("aria-current", "true");
      nav.scrollTo({ left: link.offsetLeft - 40 });
    }
  };
  const watch = new IntersectionObserver(mark, { rootMargin: "-15% 0px -80% 0px" });
  for (const id of links.keys()) watch.observe(document.getElementById(id));
}

function start() {
  const report = JSON.parse(document.getElementById("data").textContent);
  const rows = browser(report);
  const sections = [
    glance(report),
    verification(report),
    kinds(report),
    users(report, rows.open),
    coverage(report, rows.open),
    correlations(report),
    lengths(report),
    funnel(report),
    duplicates(report),
    history(report),
    diversity(report),
    contamination(report),
    copies(report),
    cost(report),
    rows.part,
    notes(report),
  ].filter(Boolean);
  document.title = visible(`${short(report.name, 80)} \u2013 dataset report`);
  const nav = document.getElementById("nav");
  const link = ({ id, firstChild }) => el("li", {}, el("a", { href: `#${id}` }, firstChild.textContent));
  nav.append(el("ol", {}, sections.map(link)));
  document.getElementById("main").append(heading(report), ...sections);
  follow(nav);
}

start();
