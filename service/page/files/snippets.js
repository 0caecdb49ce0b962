/** The request of this page as curl and Python. */

import { html } from "./dom.js";
import { hasKey, urlOf } from "./service.js";

/**
 * Elements with the code and buttons that copy it.
 *
 * @param {{sequences, features}} batch that was sent
 * @param {{requests: number, size: number}} result
 * @param {string} overlong the option that was sent
 */
export function snippets({ sequences, features }, result, overlong) {
  const one = result.requests === 1;
  const few = `The batch went in ${result.requests} requests; the client below cuts it likewise.`;
  const blocks = [block("Python", python(sequences.length, features, result.size, overlong))];
  return one ? [block("curl", curl(overlong)), ...blocks] : [html("p", {}, few), ...blocks];
}

function curl(overlong) {
  const query = overlong === "error" ? "" : `?overlong=${overlong}`;
  return [
    `curl "${urlOf("embed")}${query}" \\`,
    ...(hasKey() ? ['  -H "Authorization: Bearer $KEY" \\'] : []),
    '  -H "Content-Type: application/vnd.safetensors" -H "Accept: application/x-npy" \\',
    "  --data-binary @batch.safetensors -o embeddings.npy",
  ].join("\n");
}

function python(count, features, size, overlong) {
  const base = urlOf("").replace(/\/$/, "");
  const options = [
    ...(overlong === "error" ? [] : [`overlong="${overlong}"`]),
    ...(features ? [`features=${JSON.stringify(features)}`] : []),
  ];
  return [
    "import numpy as np",
    "from safetensors.numpy import load_file",
    "from tritserve import Client",
    "",
    'batch = load_file("batch.safetensors")',
    'sequences = np.split(batch["values"], np.cumsum(batch["lengths"])[:-1])',
    `with Client("${base}"${hasKey() ? ', api_key="..."' : ""}) as client:`,
    `    embeddings = client.embed(${["sequences", ...options].join(", ")})`,
    `print(embeddings.shape)  # (${count}, ${size})`,
  ].join("\n");
}

function block(name, code) {
  const text = html("pre", { tabindex: "0", "aria-label": name }, html("code", {}, code));
  const button = html("button", { type: "button", "aria-label": `Copy ${name}` }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(code);
      button.textContent = "Copied";
    } catch {
      // Without TLS, browsers give no clipboard.
      getSelection().selectAllChildren(text);
      button.textContent = "Selected";
    }
  });
  const head = html("div", { class: "row" }, html("b", {}, name), button);
  return html("div", { class: "snippet" }, head, text);
}
