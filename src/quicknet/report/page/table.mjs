// The table of answers as text.

function cell(value) {
  const text = String(value);
  const plain = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text; // spreadsheets would run it as a formula
  return /[",\r\n]/.test(plain) ? `"${plain.replaceAll('"', '""')}"` : plain;
}

/** The table as CSV (RFC 4180): file, answer, probability, and what is wrong with a picture that was not classified. */
export function csv(rows) {
  const lines = rows.map(({ name, label, top, error }) =>
    error ? [name, "", "", error] : [name, label ?? "unknown", top[0].probability.toFixed(6), ""],
  );
  return [["file", "answer", "probability", "error"], ...lines].map((line) => `${line.map(cell).join(",")}\r\n`).join("");
}
