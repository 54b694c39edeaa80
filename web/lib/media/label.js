/** Labels as comments in saved files, as `preview/deliver/label.py` writes them into previews. */

import { ascii, joined } from "./webp.js";

const PNG_START = 33; // the signature and the header chunk

// Elements of Matroska, of which WebM is a kind.
const ENDLESS_SEGMENT = [0x18, 0x53, 0x80, 0x67, 0x01, ...new Array(7).fill(0xff)];
const CLUSTER = [0x1f, 0x43, 0xb6, 0x75];
const TAGS = [0x12, 0x54, 0xc3, 0x67];
const TAG = [0x73, 0x73];
const TARGETS = [0x63, 0xc0];
const SIMPLE_TAG = [0x67, 0xc8];
const TAG_NAME = [0x45, 0xa3];
const TAG_STRING = [0x44, 0x87];

/**
 * @param {object} label
 * @returns {string} in ASCII, which every format takes
 */
function commentOf(label) {
  const text = JSON.stringify({ sidestream: label });
  return text.replace(/[^ -~]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/**
 * @param {Uint8Array} file
 * @param {object} label
 */
export function labelledPng(file, label) {
  const chunk = ascii(`tEXtComment\0${commentOf(label)}`);
  const parts = [file.subarray(0, PNG_START), uint32(chunk.length - 4), chunk, uint32(crc32(chunk)), file.subarray(PNG_START)];
  return joined(parts);
}

/**
 * @param {object} label
 * @returns {Uint8Array} for a WebP file
 */
export function xmpOf(label) {
  const escaped = commentOf(label).replace(/[&<>]/g, (sign) => `&#${sign.charCodeAt(0)};`);
  return ascii(
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">' +
      '<rdf:Description rdf:about="" xmlns:exif="http://ns.adobe.com/exif/1.0/"><exif:UserComment><rdf:Alt>' +
      `<rdf:li xml:lang="x-default">${escaped}</rdf:li>` +
      "</rdf:Alt></exif:UserComment></rdf:Description></rdf:RDF></x:xmpmeta>",
  );
}

/**
 * @param {Uint8Array<ArrayBuffer>} file as browsers record it, with no size said; others stay as they are
 * @param {object} label
 */
export function labelledWebm(file, label) {
  const at = placeOf(CLUSTER, file);
  if (at < 0 || placeOf(ENDLESS_SEGMENT, file.subarray(0, at)) < 0) return file;
  const comment = element(SIMPLE_TAG, element(TAG_NAME, ascii("COMMENT")), element(TAG_STRING, ascii(commentOf(label))));
  const tags = element(TAGS, element(TAG, element(TARGETS), comment));
  return joined([file.subarray(0, at), tags, file.subarray(at)]);
}

/**
 * @param {number[]} id
 * @param {Uint8Array[]} contents
 */
function element(id, ...contents) {
  const content = joined(contents);
  return joined([Uint8Array.from(id), uint32(0x10000000 | content.length), content]); // a size of four bytes
}

/**
 * @param {number[]} bytes
 * @param {Uint8Array} file
 */
function placeOf(bytes, file) {
  return file.findIndex((_, at) => bytes.every((byte, i) => file[at + i] === byte));
}

/** @param {Uint8Array} bytes */
function crc32(bytes) {
  let crc = ~0;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}

/** @param {number} value */
function uint32(value) {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value);
  return bytes;
}
