/** Labels as comments in saved files, as `preview/deliver/label.py` writes them into previews. */

import { ascii, joined } from "./webp.js";

const PNG_START = 33; // the signature and the header chunk

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
