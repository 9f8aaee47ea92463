// Passkeys: [data-passkey="add" | "log-in"] is a button that is shown where the browser has them and the place allows.
(() => {
  const headers = () => ({
    "content-type": "application/json",
    accept: "application/json",
    "x-csrf-token": JSON.parse(document.body.getAttribute("hx-headers:inherited"))["X-CSRF-Token"],
  });

  const post = async (path, body) => {
    const response = await fetch(path, { method: "POST", headers: headers(), body: JSON.stringify(body), redirect: "manual" });
    if (response.type === "opaqueredirect") {
      location.assign(`/auth/confirm?next=${encodeURIComponent(location.pathname)}`);
      throw new DOMException("elsewhere", "AbortError");
    }
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.error.message);
    return answer;
  };

  const ceremonies = {
    add: async (button) => {
      const options = await post("/dashboard/settings/passkeys/options", {});
      const publicKey = PublicKeyCredential.parseCreationOptionsFromJSON(options);
      const credential = await navigator.credentials.create({ publicKey });
      return post("/dashboard/settings/passkeys", { credential: credential.toJSON(), label: button.dataset.label });
    },
    "log-in": async () => {
      const options = await post("/auth/passkey/options", {});
      const publicKey = PublicKeyCredential.parseRequestOptionsFromJSON(options);
      const credential = await navigator.credentials.get({ publicKey });
      return post(`/auth/passkey${location.search}`, { credential: credential.toJSON() });
    },
  };

  const start = async (button) => {
    const problem = document.getElementById("passkey-problem");
    problem.textContent = "";
    button.disabled = true;
    try {
      const answer = await ceremonies[button.dataset.passkey](button);
      location.assign(answer.location);
    } catch (error) {
      const ended = ["NotAllowedError", "AbortError"].includes(error.name);
      problem.textContent = ended ? "" : error.message;
    }
    button.disabled = false;
  };

  if (!window.PublicKeyCredential?.parseCreationOptionsFromJSON) return;
  document.querySelectorAll("[data-passkey]").forEach((button) => {
    if (location.hostname !== button.dataset.place) return;
    button.closest("[hidden]")?.removeAttribute("hidden");
    document.querySelector("[data-passkey-elsewhere]")?.setAttribute("hidden", "");
    button.addEventListener("click", () => start(button));
  });
})();
