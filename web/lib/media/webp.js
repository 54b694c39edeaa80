/**
 * Packs still WebP pictures into an animated one, and unpacks it again: the container only, bytes in,
 * bytes out.
 */

const HEADER = 12; // "RIFF", size, "WEBP"
const FRAME_HEADER = 16;
const PICTURE = ["ALPH", "VP8 ", "VP8L"];

// Of the whole file.
const ANIMATION = 0x02;
const XMP = 0x04;
const ALPHA = 0x10;

// Of each frame of an animation.
const DISPOSE = 0x01;
const REPLACE = 0x02;

/**
 * @typedef {object} PackedFrame One frame of an animation.
 * @property {Uint8Array<ArrayBuffer>} file a still WebP
 * @property {number} x where in the whole picture it lies
 * @property {number} y
 * @property {number} width
 * @property {number} height
 * @property {number} duration in milliseconds
 * @property {boolean} blend whether what was there before shows through
 * @property {boolean} dispose whether its place is cleared before the next frame
 * @property {boolean} whole whether nothing of the frames before it can be seen
 */

/**
 * @param {Uint8Array[]} pictures still WebP files of the same size
 * @param {number[]} durations of each, in milliseconds
 * @param {number} width
 * @param {number} height
 * @param {Uint8Array} xmp metadata
 * @returns {Uint8Array<ArrayBuffer>} an animated WebP file that loops forever
 */
export function animatedWebp(pictures, durations, width, height, xmp) {
  const bodies = pictures.map(pictureChunks);
  const hasAlpha = bodies.some((chunks) => chunks.some(({ name }) => name === "ALPH" || name === "VP8L"));
  const extended = extendedHeader(ANIMATION | XMP | (hasAlpha ? ALPHA : 0), width, height);
  const frames = bodies.map((chunks, i) => {
    const head = new Uint8Array(FRAME_HEADER);
    write24(head, 6, width - 1);
    write24(head, 9, height - 1);
    write24(head, 12, durations[i]);
    head[15] = REPLACE;
    return chunk("ANMF", joined([head, ...chunks.map(({ bytes }) => bytes)]));
  });
  return webpFile([extended, chunk("ANIM", new Uint8Array(6)), ...frames, chunk("XMP ", xmp)]);
}

/**
 * @param {Uint8Array} file an animated WebP; any other is a TypeError
 * @returns {{ width: number, height: number, frames: PackedFrame[] }}
 */
export function unpackedWebp(file) {
  const chunks = chunksOf(file, HEADER);
  const extended = chunks.find(({ name }) => name === "VP8X")?.content;
  const frames = chunks.filter(({ name }) => name === "ANMF");
  if (!extended || !frames.length) throw new TypeError("not an animated WebP file");
  const [width, height] = [read24(extended, 4) + 1, read24(extended, 7) + 1];
  return { width, height, frames: frames.map(({ content }) => unpackedFrame(content, width, height)) };
}

/** @param {Uint8Array} file its beginning will do */
export function isAnimatedWebp(file) {
  const [first] = chunksOf(file, HEADER);
  return first?.name === "VP8X" && (first.content[0] & ANIMATION) > 0;
}

/**
 * @param {Uint8Array} content of a frame's chunk
 * @param {number} fullWidth
 * @param {number} fullHeight
 * @returns {PackedFrame}
 */
function unpackedFrame(content, fullWidth, fullHeight) {
  const [width, height] = [read24(content, 6) + 1, read24(content, 9) + 1];
  const picture = chunksOf(content, FRAME_HEADER).filter(({ name }) => PICTURE.includes(name));
  const hasAlpha = picture.some(({ name }) => name !== "VP8 ");
  const blend = !(content[15] & REPLACE);
  // A still picture with its alpha channel apart needs the extended header.
  const extended = picture.some(({ name }) => name === "ALPH") ? [extendedHeader(ALPHA, width, height)] : [];
  return {
    file: webpFile([...extended, ...picture.map(({ bytes }) => bytes)]),
    x: read24(content, 0) * 2,
    y: read24(content, 3) * 2,
    width,
    height,
    duration: read24(content, 12),
    blend,
    dispose: Boolean(content[15] & DISPOSE),
    whole: width === fullWidth && height === fullHeight && !(blend && hasAlpha),
  };
}

/**
 * The chunks of a still picture that hold its pixels.
 *
 * @param {Uint8Array} file
 */
function pictureChunks(file) {
  return chunksOf(file, HEADER).filter(({ name }) => PICTURE.includes(name));
}

/**
 * @param {Uint8Array} file
 * @param {number} at where the first chunk begins
 */
function chunksOf(file, at) {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const found = [];
  while (at + 8 <= file.length) {
    const name = String.fromCharCode(...file.subarray(at, at + 4));
    const size = view.getUint32(at + 4, true);
    const end = at + 8 + size + (size % 2);
    found.push({ name, bytes: file.subarray(at, end), content: file.subarray(at + 8, at + 8 + size) });
    at = end;
  }
  return found;
}

/** @param {Uint8Array[]} chunks */
function webpFile(chunks) {
  return chunk("RIFF", joined([ascii("WEBP"), ...chunks]));
}

/**
 * @param {number} flags
 * @param {number} width
 * @param {number} height
 */
function extendedHeader(flags, width, height) {
  const content = new Uint8Array(10);
  content[0] = flags;
  write24(content, 4, width - 1);
  write24(content, 7, height - 1);
  return chunk("VP8X", content);
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
export function joined(parts) {
  const all = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** @param {string} text */
export function ascii(text) {
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

/**
 * @param {Uint8Array} bytes
 * @param {number} at
 */
function read24(bytes, at) {
  return bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16);
}
