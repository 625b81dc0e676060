// Shows the answer for one neuron or weight, which is chosen in the drawing or in the list.
(function () {
  const chooser = document.getElementById("chooser");
  if (!chooser) return;
  const choice = document.getElementById("choice"), answers = Array.from(document.querySelectorAll(".answer"));
  chooser.hidden = false;
  function choose(name) {
    answers.forEach((answer) => { answer.hidden = name !== "" && answer.id !== name; });
    choice.value = name;
  }
  choice.addEventListener("change", () => choose(choice.value));
  document.querySelectorAll("svg.network a").forEach((link) =>
    link.addEventListener("click", () => choose(link.getAttribute("href").slice(1))));
  const named = window.location.hash.slice(1);
  if (answers.some((answer) => answer.id === named)) choose(named);
  window.addEventListener("beforeprint", () => answers.forEach((answer) => { answer.hidden = false; }));
  window.addEventListener("afterprint", () => choose(choice.value));
})();
