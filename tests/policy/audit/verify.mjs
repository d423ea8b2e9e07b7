// Checks the vectors of this folder with nothing but Node: node verify.mjs [FOLDER]. Prints how many checks each
// file took; the first that fails ends the run with exit code 1.
import assert from 'node:assert/strict';
import { createHash, createHmac, createPublicKey, verify } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const folder = process.argv[2] ?? fileURLToPath(new URL('vectors', import.meta.url));
const read = (name) => JSON.parse(readFileSync(`${folder}/${name}.json`, 'utf8'));
const bytes = (hex) => Buffer.from(hex, 'hex');
const sha256 = (...parts) => createHash('sha256').update(Buffer.concat(parts)).digest();

// Keys sorted by code point; all keys of the formats are ASCII, where this is JavaScript's order too.
function sorted(value) {
  if (Array.isArray(value)) return value.map(sorted);
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(Object.keys(value).sort().map((key) => [key, sorted(value[key])]));
}
const canonical = (value) => Buffer.from(JSON.stringify(sorted(value)));
const lineHash = ({ hash, ...rest }) => sha256(canonical(rest)).toString('hex');

// A raw Ed25519 key behind its SubjectPublicKeyInfo header (RFC 8410).
const publicKey = (hex) =>
  createPublicKey({ key: Buffer.concat([bytes('302a300506032b6570032100'), bytes(hex)]), format: 'der', type: 'spki' });
const signedBy = (hex, message, signature) => verify(null, message, publicKey(hex), bytes(signature));

const update = (line) => ({
  new: line.hash, previous: line.prev_hash, reference: line.seq, timestamp: line.announced_at, type: 'schedule',
});
const message = (line) => Buffer.concat([Buffer.from('forecaster signed update v1\0'), canonical(update(line))]);

function accepts(record, lines, keys) {
  const line = lines[record.reference];
  const { key, signature, ...said } = record;
  return keys.includes(key) && line !== undefined && canonical(said).equals(canonical(update(line)))
    && signedBy(key, message(line), signature);
}

const leafHash = (leaf) => sha256(Buffer.of(0), leaf);
const node = (left, right) => sha256(Buffer.of(1), left, right);
function treeHash(leaves) {
  if (leaves.length === 1) return leafHash(leaves[0]);
  let k = 1;
  while (2 * k < leaves.length) k *= 2;
  return node(treeHash(leaves.slice(0, k)), treeHash(leaves.slice(k)));
}
// The root that a path leads to, from the top down: the same split that defines the tree.
function climb(leaf, index, size, path) {
  if (size === 1) return path.length ? null : leafHash(leaf);
  if (!path.length) return null;
  let k = 1;
  while (2 * k < size) k *= 2;
  const [rest, sibling] = [path.slice(0, -1), path.at(-1)];
  const below = index < k ? climb(leaf, index, k, rest) : climb(leaf, index - k, size - k, rest);
  return below && (index < k ? node(below, sibling) : node(sibling, below));
}
const included = (leaf, index, size, path, root) => climb(leaf, index, size, path)?.equals(root) ?? false;

const word = (text) => {
  const buffer = Buffer.alloc(8);
  buffer.writeBigInt64BE(BigInt(text));
  return buffer;
};

const checks = { canonical: 0, signatures: 0, rfc8032: 0, merkle: 0, commitments: 0 };
const check = (name, found, expected, what) => {
  assert.deepEqual(found, expected, `${name}: ${what}`);
  checks[name] += 1;
};

for (const { value, bytes: raw, hash } of read('canonical')) {
  check('canonical', [canonical(value).toString('hex'), lineHash(value)], [raw, hash], JSON.stringify(value));
}

const signed = read('signatures');
signed.lines.forEach((line, i) => {
  const previous = i ? signed.lines[i - 1].hash : '0'.repeat(64);
  check('signatures', [lineHash(line), line.prev_hash, message(line).toString('hex')],
    [line.hash, previous, signed.messages[i]], `line ${i}`);
});
const newest = new Map();
for (const record of [...signed.signatures].sort((a, b) => a.reference - b.reference)) {
  assert.ok(accepts(record, signed.lines, signed.keys), `signatures: line ${record.reference} by ${record.key}`);
  newest.set(record.key, record.reference + 1);
}
const ranked = [...newest.values()].sort((a, b) => b - a);
check('signatures', ranked[signed.threshold - 1] ?? 0, signed.effective, 'lines with k signatures');
assert.ok(signed.refused.length, 'signatures: none to refuse');
signed.refused.forEach((record, i) => check('signatures', accepts(record, signed.lines, signed.keys), false, `refused ${i}`));
check('signatures', ranked[signed.keys.length - 1] ?? 0, 0, 'all n have not signed');

for (const [, key, text, signature] of read('rfc8032')) {
  check('rfc8032', signedBy(key, bytes(text), signature), true, key);
}

const merkle = read('merkle');
const leaves = merkle.leaves.map(bytes);
merkle.roots.forEach((root, i) => check('merkle', treeHash(leaves.slice(0, i + 1)).toString('hex'), root, `${i + 1} leaves`));
for (const { size, index, path } of merkle.paths) {
  const found = included(leaves[index], index, size, path.map(bytes), bytes(merkle.roots[size - 1]));
  check('merkle', found, true, `leaf ${index} of ${size}`);
}
for (const { leaf, size, index, path } of merkle.forged) {
  check('merkle', included(bytes(leaf), index, size, path.map(bytes), bytes(merkle.roots[size - 1])), false, `forged ${leaf}`);
}

const held = read('commitments');
for (const row of held.accounts) {
  const tag = Buffer.from('forecaster account salt v1\0');
  const salt = createHmac('sha256', bytes(held.secret)).update(Buffer.concat([tag, word(held.as_of_micros), Buffer.from(row.account)]));
  check('commitments', salt.digest('hex'), row.salt, `${row.account}: salt`);
  const leaf = sha256(Buffer.from('forecaster account margin v1\0'), word(held.as_of_micros), bytes(row.salt),
    sha256(Buffer.from(row.account)), word(row.equity_micro_usd), word(row.maintenance_micro_usd));
  check('commitments', leaf.toString('hex'), row.leaf, `${row.account}: commitment`);
  const path = row.path.map(bytes);
  check('commitments', included(leaf, row.index, held.accounts.length, path, bytes(held.root)), true, `${row.account}: path`);
}
process.stdout.write(`${JSON.stringify(checks)}\n`);
