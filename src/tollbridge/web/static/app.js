// What pages do without a request: copy, ask before something is done, show and hide the menu, no form sent twice.
(() => {
  const copied = (button) => {
    const label = button.querySelector("span");
    if (!label) return;
    const before = label.textContent;
    label.textContent = "Copied";
    button.dataset.copied = "";
    setTimeout(() => {
      label.textContent = before;
      delete button.dataset.copied;
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
      document.getElementById("sidebar")?.toggle?.();
    }
  });

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
