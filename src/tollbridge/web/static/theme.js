// Before the page is drawn: light or dark, as chosen here or else as the system is.
(() => {
  const root = document.documentElement;
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const stored = () => {
    try {
      return localStorage.getItem("theme");
    } catch {
      return null;
    }
  };
  const apply = () => {
    const theme = stored() || (system.matches ? "dark" : "light");
    root.classList.toggle("dark", theme === "dark");
    root.dataset.theme = theme;
  };
  apply();
  system.addEventListener("change", apply);
  // Paper is white, whatever the screen is.
  addEventListener("beforeprint", () => root.classList.remove("dark"));
  addEventListener("afterprint", apply);
  document.addEventListener("click", (event) => {
    if (!event.target.closest("[data-theme-toggle]")) return;
    try {
      localStorage.setItem("theme", root.dataset.theme === "dark" ? "light" : "dark");
    } catch {
      root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
    }
    apply();
    document.dispatchEvent(new CustomEvent("themechange"));
  });
})();
