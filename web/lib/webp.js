/** Still WebP pictures put together into an animated one: the container alone, bytes in, bytes out. */

const HEADER = 12; // "RIFF", size, "WEBP"
const ANIMATION = 0x02;
const ALPHA = 0x10;

/**
 * @param {Uint8Array[]} pictures still WebP files of the same size
 * @param {number[]} durations of each, in milliseconds
 * @param {number} width
 * @param {number} height
 * @returns {Uint8Array<ArrayBuffer>} an animated WebP file that loops forever
 */
export function animatedWebp(pictures, durations, width, height) {
  const bodies = pictures.map(pictureChunks);
  const hasAlpha = bodies.some((chunks) => chunks.some(({ name }) => name === "ALPH" || name === "VP8L"));
  const extended = new Uint8Array(10);
  extended[0] = ANIMATION | (hasAlpha ? ALPHA : 0);
  write24(extended, 4, width - 1);
  write24(extended, 7, height - 1);
  const frames = bodies.map((chunks, i) => {
    const head = new Uint8Array(16);
    write24(head, 6, width - 1);
    write24(head, 9, height - 1);
    write24(head, 12, durations[i]);
    head[15] = 0x02; // each frame replaces the one before
    return chunk("ANMF", joined([head, ...chunks.map(({ bytes }) => bytes)]));
  });
  const body = joined([chunk("VP8X", extended), chunk("ANIM", new Uint8Array(6)), ...frames]);
  return chunk("RIFF", joined([ascii("WEBP"), body]));
}

/**
 * The chunks of a still picture that hold its pixels.
 *
 * @param {Uint8Array} file
 */
function pictureChunks(file) {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const found = [];
  for (let at = HEADER; at + 8 <= file.length; ) {
    const name = String.fromCharCode(...file.subarray(at, at + 4));
    const size = view.getUint32(at + 4, true);
    const end = at + 8 + size + (size % 2);
    if (["ALPH", "VP8 ", "VP8L"].includes(name)) found.push({ name, bytes: file.subarray(at, end) });
    at = end;
  }
  return found;
}

/**
 * @param {string} name four characters
 * @param {Uint8Array} content
 */
function chunk(name, content) {
  const made = new Uint8Array(8 + content.length + (content.length % 2));
  made.set(ascii(name));
  new DataView(made.buffer).setUint32(4, content.length, true);
  made.set(content, 8);
  return made;
}

/** @param {Uint8Array[]} parts */
function joined(parts) {
  const all = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** @param {string} text */
function ascii(text) {
  return Uint8Array.from(text, (character) => character.charCodeAt(0));
}

/**
 * @param {Uint8Array} bytes
 * @param {number} at
 * @param {number} value
 */
function write24(bytes, at, value) {
  bytes[at] = value & 255;
  bytes[at + 1] = (value >> 8) & 255;
  bytes[at + 2] = (value >> 16) & 255;
}
