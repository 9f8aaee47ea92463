// The address says what is filtered, so that it can be kept and sent to others.
(() => {
  const form = document.getElementById("filters");
  form?.addEventListener("input", () => {
    const wanted = [...new FormData(form)].filter(([, value]) => value);
    const query = new URLSearchParams(wanted).toString();
    history.replaceState(history.state, "", query ? `/models?${query}` : "/models");
  });
})();
