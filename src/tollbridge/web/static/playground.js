// The playground: one question to several models at once, each with a conversation of its own. All text is shown as
// text; nothing that a model says becomes a part of the page.
(() => {
  const root = document.getElementById("playground");
  if (!root) return;
  const MOST = 4;
  const find = (id) => document.getElementById(id);
  const [columnsBox, form, text, stop, go] = ["pg-columns", "pg-form", "pg-text", "pg-stop", "pg-go"].map(find);
  const columns = [];
  let running = 0;

  const make = (tag, className, content) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (content !== undefined) made.textContent = content;
    return made;
  };

  const usd = (amount) => {
    const [whole, fraction] = Number(amount).toFixed(9).split(".");
    return `$${whole}.${fraction.slice(0, 2)}${fraction.slice(2).replace(/0+$/, "")}`;
  };

  // --- columns ---

  const add = (model) => {
    if (columns.length >= MOST) return;
    const box = find("pg-column").content.firstElementChild.cloneNode(true);
    const column = { box, model: box.querySelector(".pg-model"), turns: box.querySelector(".pg-turns"), said: [] };
    column.model.value = model;
    // Chosen anew, all models are offered again and not only those that begin as this one does.
    column.model.addEventListener("focus", () => column.model.select());
    box.querySelector(".pg-remove").addEventListener("click", () => remove(column));
    columns.push(column);
    columnsBox.append(box);
    settle();
  };

  const remove = (column) => {
    column.leaving?.abort();
    columns.splice(columns.indexOf(column), 1);
    column.box.remove();
    settle();
    (columns.at(-1)?.model || text).focus();
  };

  const settle = () => {
    find("pg-add").disabled = columns.length >= MOST;
    columns.forEach((each, index) => {
      each.model.setAttribute("aria-label", `Model ${index + 1}`);
      each.turns.setAttribute("aria-label", `Conversation ${index + 1}`);
      each.box.querySelector(".pg-remove").hidden = columns.length === 1;
    });
  };

  const turn = (column, role) => {
    const box = make("li", "pg-turn");
    box.dataset.role = role;
    box.append(make("span", "sr-only", role === "user" ? "You: " : "Model: "), make("div", "pg-words"));
    column.turns.append(box);
    column.turns.scrollTop = column.turns.scrollHeight;
    return box;
  };

  // --- what is asked ---

  const number = (id) => {
    const value = find(id).value.trim();
    return value === "" || !find(id).checkValidity() ? undefined : Number(value);
  };

  const request = (column) => {
    const system = find("pg-system").value.trim();
    const messages = system ? [{ role: "system", content: system }, ...column.said] : [...column.said];
    const body = { model: column.model.value.trim(), messages };
    const [temperature, most] = [number("pg-temperature"), number("pg-max")];
    if (temperature !== undefined) body.temperature = temperature;
    if (most !== undefined) body.max_tokens = most;
    return body;
  };

  const ask = async (column, question) => {
    column.said.push({ role: "user", content: question });
    turn(column, "user").querySelector(".pg-words").textContent = question;
    const answer = { box: turn(column, "assistant"), words: "", thought: "", usage: null, began: performance.now() };
    answer.box.dataset.state = "waiting";
    column.leaving = new AbortController();
    try {
      const response = await fetch("/playground/chat", {
        method: "POST",
        headers: { "Content-Type": "application/json", "X-CSRF-Token": root.dataset.csrf },
        body: JSON.stringify({ ...request(column), stream: true, stream_options: { include_usage: true } }),
        signal: column.leaving.signal,
      });
      if (response.redirected) throw new Error("You are logged out. Log in and try again.");
      if (!response.ok) throw new Error(await problem(response));
      await read(response.body, (event) => take(column, answer, event));
      note(answer);
    } catch (error) {
      if (error.name === "AbortError") note(answer, "stopped");
      else fail(answer, error.message || "The connection broke off.");
    }
    delete answer.box.dataset.state;
    delete column.leaving;
    if (answer.words) column.said.push({ role: "assistant", content: answer.words });
    else column.said.pop();
  };

  const problem = async (response) => {
    try {
      const { error } = await response.json();
      return `${error.message} (${response.status})`;
    } catch {
      return `The server answered ${response.status}.`;
    }
  };

  // --- what is answered ---

  const read = async (body, each) => {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data: ") && line !== "data: [DONE]") each(JSON.parse(line.slice(6)));
      }
    }
  };

  const take = (column, answer, event) => {
    if (event.error) throw new Error(event.error.message);
    if (event.usage) answer.usage = event.usage;
    const delta = event.choices?.[0]?.delta;
    if (!delta) return;
    const near = column.turns.scrollHeight - column.turns.scrollTop - column.turns.clientHeight < 60;
    if (delta.reasoning_content) think(answer, delta.reasoning_content);
    if (delta.content) {
      answer.box.dataset.state = "writing";
      answer.words += delta.content;
      answer.box.querySelector(".pg-words").textContent = answer.words;
    }
    if (near) column.turns.scrollTop = column.turns.scrollHeight;
  };

  const think = (answer, piece) => {
    if (!answer.thought) {
      const box = make("details", "pg-thought");
      box.append(make("summary", "", "Reasoning"), make("div", "pg-words"));
      answer.box.querySelector(".pg-words").before(box);
    }
    answer.thought += piece;
    answer.box.querySelector(".pg-thought .pg-words").textContent = answer.thought;
  };

  const note = (answer, word = "") => {
    const parts = word ? [word] : [];
    if (answer.usage) {
      parts.push(`${answer.usage.prompt_tokens} + ${answer.usage.completion_tokens} tokens`);
      if (answer.usage.cost !== undefined) parts.push(usd(answer.usage.cost));
      if (answer.usage.balance !== undefined) balance(answer.usage.balance);
    }
    parts.push(`${((performance.now() - answer.began) / 1000).toFixed(1)} s`);
    answer.box.append(make("p", "pg-note", parts.join(" · ")));
  };

  const fail = (answer, message) => {
    const box = make("p", "pg-error", message);
    box.setAttribute("role", "alert");
    answer.box.append(box);
  };

  const balance = (amount) => {
    for (const box of [find("pg-balance"), document.querySelector(".account-balance")]) {
      if (box) (box.firstChild || box).textContent = `${usd(amount)} `;
    }
  };

  // --- the form ---

  const state = () => {
    stop.hidden = !running;
    go.disabled = Boolean(running);
    columnsBox.setAttribute("aria-busy", running ? "true" : "false");
  };

  const send = async () => {
    const question = text.value.trim();
    if (!question || running) return;
    text.value = "";
    running = columns.length;
    state();
    find("pg-said").textContent = "Asking.";
    await Promise.all(
      columns.map(async (column) => {
        await ask(column, question);
        running = Math.max(0, running - 1);
      }),
    );
    running = 0;
    state();
    find("pg-said").textContent = "All answers are here.";
  };

  const halt = () => columns.forEach((each) => each.leaving?.abort());

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      send();
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && running) halt();
  });
  stop.addEventListener("click", halt);
  find("pg-add").addEventListener("click", () => {
    add(columns.at(-1)?.model.value || root.dataset.first);
    columns.at(-1).model.focus();
  });
  find("pg-clear").addEventListener("click", () => {
    halt();
    columns.forEach((each) => {
      each.said = [];
      each.turns.replaceChildren();
    });
    text.focus();
  });

  // --- as code ---

  const KEY = "YOUR_API_KEY";
  const python = (value) => JSON.stringify(value, null, 4).replaceAll("\n", "\n    ");
  const javascript = (value) => JSON.stringify(value, null, 2).replaceAll("\n", "\n  ");
  const code = (body) => {
    const base = root.dataset.baseUrl;
    const fields = Object.entries(body);
    const shell = JSON.stringify(body, null, 2).replaceAll("'", "'\\''");
    return [
      `from openai import OpenAI\n\nclient = OpenAI(\n    api_key="${KEY}",\n    base_url="${base}",\n)\n` +
        "response = client.chat.completions.create(\n" +
        fields.map(([name, value]) => `    ${name}=${python(value)},\n`).join("") +
        ")\nprint(response.choices[0].message.content)",
      `import OpenAI from "openai";\n\nconst client = new OpenAI({\n  apiKey: "${KEY}",\n  baseURL: "${base}",\n});\n` +
        "const response = await client.chat.completions.create({\n" +
        fields.map(([name, value]) => `  ${name}: ${javascript(value)},\n`).join("") +
        "});\nconsole.log(response.choices[0].message.content);",
      `curl ${base}/chat/completions \\\n  -H "Authorization: Bearer ${KEY}" \\\n` +
        `  -H "Content-Type: application/json" \\\n  -d '${shell}'`,
    ];
  };

  find("pg-code").addEventListener("click", () => {
    const body = request(columns[0]);
    if (body.messages.at(-1)?.role === "assistant") body.messages.pop();
    if (!body.messages.some((each) => each.role === "user")) {
      body.messages.push({ role: "user", content: text.value.trim() || "Hello!" });
    }
    code(body).forEach((each, index) => {
      find(`shown-${index}`).textContent = each;
    });
    find("pg-dialog").showModal();
  });
  find("pg-close").addEventListener("click", () => find("pg-dialog").close());

  add(root.dataset.first);
  text.focus();
})();
