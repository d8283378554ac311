// The recording app in Node: node recording_node.mjs PORT
import { appendFileSync } from "node:fs";
import { createServer } from "node:http";

function note(request, body) {
  const raw = request.rawHeaders.map((text) => text);
  const headers = [];
  for (let at = 0; at < raw.length; at += 2) headers.push([raw[at].toLowerCase(), raw[at + 1]]);
  const record = { method: request.method, target: request.url, headers, body: body ?? "", whole: body !== null };
  appendFileSync(process.env.RECORD_INTO, JSON.stringify(record) + "\n");
}

createServer((request, response) => {
  const answer = () => response.writeHead(200, { "content-length": "2" }).end("ok");
  if (request.url === "/healthz") return answer();
  if (request.url === "/early") {
    note(request, "");
    return answer();
  }
  let body = "";
  request.setEncoding("latin1");
  request.on("data", (piece) => (body += piece));
  request.on("end", () => {
    note(request, body);
    answer();
  });
  request.on("error", () => note(request, null));
}).listen(Number(process.argv[2]), "127.0.0.1");
