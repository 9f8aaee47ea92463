// What pages do without a request: copy, ask before something is done, show and hide the menu, no form sent twice.
(() => {
  // For screen readers, which do not read a button again because its words have changed.
  const say = (words) => {
    document.getElementById("said").textContent = words;
  };

  const copied = (button) => {
    const label = button.querySelector("span");
    if (!label || button.dataset.copied !== undefined) return;
    const before = label.textContent;
    say("Copied");
    label.textContent = "Copied";
    button.dataset.copied = "";
    setTimeout(() => {
      label.textContent = before;
      delete button.dataset.copied;
      say("");
    }, 1600);
  };

  const copy = async (text) => {
    if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "offscreen";
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  };

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy], [data-copy-from]");
    if (button) {
      const source = button.dataset.copyFrom ? document.getElementById(button.dataset.copyFrom).textContent : null;
      await copy(source === null ? button.dataset.copy : source);
      copied(button);
      return;
    }
    if (event.target.closest("[data-toggle-sidebar]")) {
      sidebar?.toggle?.();
      if (covers()) sidebar.querySelector("section a")?.focus();
    }
  });

  // The menu: its button says whether it is open. On a phone it lies over the page: it then takes the focus, and closes when
  // that leaves it, or at Escape.
  const sidebar = document.getElementById("sidebar");
  const opener = document.querySelector("[data-toggle-sidebar]");
  const open = () => sidebar?.getAttribute("aria-hidden") === "false";
  const covers = () => open() && getComputedStyle(sidebar).position === "fixed";
  if (sidebar && opener) {
    const tell = () => opener.setAttribute("aria-expanded", String(open()));
    new MutationObserver(tell).observe(sidebar, { attributeFilter: ["aria-hidden"] });
    tell();
    document.addEventListener("focusin", (event) => {
      if (covers() && !sidebar.contains(event.target)) sidebar.close();
    });
    document.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !covers()) return;
      sidebar.close();
      opener.focus();
    });
  }

  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.dataset.confirm && !window.confirm(form.dataset.confirm)) {
      event.preventDefault();
      return;
    }
    if (form.dataset.sent !== undefined) {
      event.preventDefault();
      return;
    }
    if (form.method === "post" && !form.hasAttribute("hx-post")) form.dataset.sent = "";
  });

  // Back from another page: the form can be sent again.
  window.addEventListener("pageshow", () => {
    document.querySelectorAll("form[data-sent]").forEach((form) => delete form.dataset.sent);
  });
})();
