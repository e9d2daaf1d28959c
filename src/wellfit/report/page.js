/* The report comes alive: the packed Vega is unpacked, the curves are drawn anew, and findings and curves lead to each other.
   Where a browser cannot, the drawn figures stay. */
"use strict";
(async () => {
  const bytes = Uint8Array.from(atob(document.getElementById("packed").textContent), c => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
  const data = JSON.parse(document.getElementById("numbers").textContent);
  document.body.classList.add("alive");
  const charts = document.getElementById("charts");
  const page = charts && wellfit.charts(charts, data, {
    finding: (_, number) => {
      const card = document.getElementById(`finding-${number}`);
      document.querySelectorAll(".finding.chosen").forEach(one => one.classList.remove("chosen"));
      card.classList.add("chosen");
      card.setAttribute("tabindex", "-1");
      card.focus({ preventScroll: true });
      card.scrollIntoView({ block: "center" });
    },
  });
  for (const button of document.querySelectorAll("[data-finding]"))
    button.addEventListener("click", () => page.show(data.findings[Number(button.dataset.finding)].step));
  const together = document.getElementById("together");
  if (data.together && together) wellfit.charts(together, data.together, { steps: true });
  if (data.layers && document.getElementById("heat")) await wellfit.heat(document.getElementById("heat"), data.layers);
})();
