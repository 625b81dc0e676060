// Shows one step at a time; without it all of them stand below each other.
"use strict";
(function () {
  const controls = document.getElementById("controls"), slider = document.getElementById("slider");
  const now = document.getElementById("now"), whole = document.getElementById("whole");
  const steps = Array.from(document.querySelectorAll(".step"));
  if (!controls || steps.length === 0) return;
  controls.hidden = false;
  document.body.classList.add("scripted");
  let every = false;
  function show(number) {
    const place = Math.min(Math.max(1, number), Number(slider.max));
    slider.value = place;
    now.textContent = place;
    steps.forEach((step, index) => { step.hidden = !every && index !== place - 1; });
    document.dispatchEvent(new CustomEvent("step", { detail: place }));
  }
  slider.addEventListener("input", () => show(Number(slider.value)));
  document.getElementById("back").addEventListener("click", () => show(Number(slider.value) - 1));
  document.getElementById("on").addEventListener("click", () => show(Number(slider.value) + 1));
  whole.addEventListener("click", () => {
    every = !every;
    document.body.classList.toggle("every", every);
    whole.textContent = every ? whole.dataset.one : whole.dataset.all;
    show(Number(slider.value));
  });
  document.addEventListener("keydown", (event) => {
    if (event.target === slider || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "ArrowLeft") show(Number(slider.value) - 1);
    if (event.key === "ArrowRight") show(Number(slider.value) + 1);
  });
  // printed, a page has all steps, as without a script
  window.addEventListener("beforeprint", () => steps.forEach((step) => { step.hidden = false; }));
  window.addEventListener("afterprint", () => show(Number(slider.value)));
  window.showStep = show;
  show(Number(document.body.dataset.opens || 1));
})();
