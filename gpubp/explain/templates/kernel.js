// Marks the lines of the step that is shown, and brings them into view in the source.
(function () {
  const code = document.getElementById("code"), sides = document.getElementById("sides");
  function mark(place) {
    const step = document.getElementById("step-" + place);
    if (!step) return;
    code.querySelectorAll(".here").forEach((row) => row.classList.remove("here"));
    const names = step.dataset.lines.split(" ").filter((name) => name !== "");
    const rows = names.map((name) => document.getElementById(name));
    rows.forEach((row) => row.classList.add("here"));
    const last = rows[rows.length - 1];
    if (last) code.scrollTop += last.getBoundingClientRect().top - code.getBoundingClientRect().top - code.clientHeight / 2;
  }
  document.addEventListener("step", (event) => mark(event.detail));
  document.querySelectorAll("[data-step]").forEach((link) => link.addEventListener("click", (event) => {
    event.preventDefault();
    window.showStep(Number(link.dataset.step));
    document.getElementById("controls").scrollIntoView();
  }));
  window.showStep(Number(document.body.dataset.opens || sides.dataset.opens));
})();
