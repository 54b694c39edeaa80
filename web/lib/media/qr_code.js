/**
 * QR codes (ISO/IEC 18004) for short addresses: bytes, error correction M, versions 1 to 10.
 *
 * Coordinates are x, then y, in modules from the top left.
 */

/** By version: bytes of error correction in each block, and how many blocks there are. */
const BLOCKS = [[10, 1], [16, 1], [26, 1], [18, 2], [24, 2], [16, 4], [18, 4], [22, 4], [22, 5], [26, 5]];
const MASKS = [
  (/** @type {number} */ x, /** @type {number} */ y) => (x + y) % 2,
  (/** @type {number} */ x, /** @type {number} */ y) => y % 2,
  (/** @type {number} */ x) => x % 3,
  (/** @type {number} */ x, /** @type {number} */ y) => (x + y) % 3,
  (/** @type {number} */ x, /** @type {number} */ y) => (Math.floor(x / 3) + Math.floor(y / 2)) % 2,
  (/** @type {number} */ x, /** @type {number} */ y) => ((x * y) % 2) + ((x * y) % 3),
  (/** @type {number} */ x, /** @type {number} */ y) => (((x * y) % 2) + ((x * y) % 3)) % 2,
  (/** @type {number} */ x, /** @type {number} */ y) => (((x + y) % 2) + ((x * y) % 3)) % 2,
];

/** @typedef {(boolean | null)[][]} Grid rows of modules; true is dark, null is still free */

/**
 * @param {string} text
 * @returns {boolean[][] | null} rows of modules, true for dark ones; null for a text of more than 213 bytes
 */
export function qrCode(text) {
  const data = new TextEncoder().encode(text);
  for (let version = 1; version <= BLOCKS.length; version++) {
    const frame = functionPatterns(version);
    const room = Math.floor(frame.flat().filter((module) => module === null).length / 8);
    const [correction, blocks] = BLOCKS[version - 1];
    const bytes = padded(data, version, room - correction * blocks);
    if (bytes) return masked(frame, interleaved(bytes, blocks, correction));
  }
  return null;
}

/**
 * @param {boolean[][]} code
 * @returns {string} the path of its dark modules in SVG, with a margin of 4 modules around
 */
export function qrPath(code) {
  return code.flatMap((row, y) => row.map((dark, x) => (dark ? `M${x + 4} ${y + 4}h1v1h-1z` : ""))).join("");
}

/**
 * Mode, length, data and padding; null if they do not fit.
 *
 * @param {Uint8Array} data
 * @param {number} version
 * @param {number} room in bytes
 */
function padded(data, version, room) {
  const binary = (/** @type {number} */ value, /** @type {number} */ bits) => value.toString(2).padStart(bits, "0");
  let bits = "0100" + binary(data.length, version < 10 ? 8 : 16);
  for (const byte of data) bits += binary(byte, 8);
  if (bits.length > room * 8) return null;
  bits += "0".repeat(Math.min(4, room * 8 - bits.length));
  bits += "0".repeat(-bits.length & 7);
  const bytes = (bits.match(/.{8}/g) ?? []).map((byte) => parseInt(byte, 2));
  for (let i = 0; bytes.length < room; i++) bytes.push(i % 2 ? 0x11 : 0xec);
  return bytes;
}

/**
 * The bytes of all blocks by turns, then those of their error correction.
 *
 * @param {number[]} bytes
 * @param {number} count of blocks; the last ones may have a byte more
 * @param {number} correction
 */
function interleaved(bytes, count, correction) {
  const short = Math.floor(bytes.length / count);
  const longOnes = bytes.length % count;
  const starts = Array.from({ length: count + 1 }, (_, i) => i * short + Math.max(0, i - (count - longOnes)));
  const blocks = starts.slice(1).map((end, i) => bytes.slice(starts[i], end));
  const corrections = blocks.map((block) => errorCorrection(block, correction));
  return [...byTurns(blocks), ...byTurns(corrections)];
}

/** @param {number[][]} lists */
function byTurns(lists) {
  const longest = Math.max(...lists.map((list) => list.length));
  return Array.from({ length: longest }, (_, i) => lists.flatMap((list) => list.slice(i, i + 1))).flat();
}

/**
 * The rest of a division by the Reed-Solomon generator polynomial, over GF(256).
 *
 * @param {number[]} bytes
 * @param {number} degree
 */
function errorCorrection(bytes, degree) {
  let generator = [1];
  for (let i = 0, root = 1; i < degree; i++, root = product(root, 2)) {
    const shifted = [0, ...generator.map((factor) => product(factor, root))];
    generator = shifted.map((factor, at) => factor ^ (generator[at] ?? 0));
  }
  const rest = [...bytes, ...Array(degree).fill(0)];
  for (let at = 0; at < bytes.length; at++) {
    const lead = rest[at];
    generator.forEach((factor, i) => (rest[at + i] ^= product(factor, lead)));
  }
  return rest.slice(bytes.length);
}

/**
 * In GF(256) modulo x⁸ + x⁴ + x³ + x² + 1.
 *
 * @param {number} a
 * @param {number} b
 */
function product(a, b) {
  let sum = 0;
  for (; b; b >>= 1) {
    if (b & 1) sum ^= a;
    a = (a << 1) ^ (a & 128 ? 0x11d : 0);
  }
  return sum;
}

/**
 * @param {number} version
 * @returns {Grid} finders, timing, alignment and version, light where the format comes
 */
function functionPatterns(version) {
  const size = 17 + 4 * version;
  /** @type {Grid} */
  const grid = Array.from({ length: size }, () => Array(size).fill(null));
  /** @param {number} cx @param {number} cy @param {number} reach @param {number[]} lightAt rings from the centre */
  const square = (cx, cy, reach, lightAt) => {
    for (let y = Math.max(0, cy - reach); y <= Math.min(size - 1, cy + reach); y++) {
      for (let x = Math.max(0, cx - reach); x <= Math.min(size - 1, cx + reach); x++) {
        grid[y][x] = !lightAt.includes(Math.max(Math.abs(x - cx), Math.abs(y - cy)));
      }
    }
  };
  for (let i = 0; i < size; i++) grid[6][i] = grid[i][6] = i % 2 === 0;
  for (const [x, y] of [[3, 3], [size - 4, 3], [3, size - 4]]) square(x, y, 4, [2, 4]);
  const last = size - 7;
  const centres = version < 2 ? [] : version < 7 ? [6, last] : [6, 2 * Math.round((6 + last) / 4), last];
  for (const x of centres) {
    for (const y of centres) {
      const isAtFinder = (x === 6 && y !== 6 && y === last) || (y === 6 && x === last) || (x === 6 && y === 6);
      if (!isAtFinder) square(x, y, 2, [1]);
    }
  }
  writeFormat(grid, 0);
  if (version >= 7) {
    const bits = (version << 12) | checked(version, 12, 0x1f25);
    for (let i = 0; i < 18; i++) {
      const [a, b] = [size - 11 + (i % 3), Math.floor(i / 3)];
      grid[a][b] = grid[b][a] = Boolean((bits >> i) & 1);
    }
  }
  return grid;
}

/**
 * Error correction M and the mask, twice.
 *
 * @param {Grid} grid
 * @param {number} mask
 */
function writeFormat(grid, mask) {
  const size = grid.length;
  const bits = ((mask << 10) | checked(mask, 10, 0x537)) ^ 0x5412;
  for (let i = 0; i < 15; i++) {
    const dark = Boolean((bits >> i) & 1);
    if (i < 8) {
      grid[i < 6 ? i : i + 1][8] = dark;
      grid[8][size - 1 - i] = dark;
    } else {
      grid[8][i === 8 ? 7 : 14 - i] = dark;
      grid[size - 15 + i][8] = dark;
    }
  }
  grid[size - 8][8] = true;
}

/**
 * The rest of a division by a BCH code's generator polynomial.
 *
 * @param {number} value
 * @param {number} degree
 * @param {number} generator
 */
function checked(value, degree, generator) {
  let rest = value << degree;
  for (let bit = 31; bit >= degree; bit--) {
    if ((rest >>> bit) & 1) rest ^= generator << (bit - degree);
  }
  return rest;
}

/**
 * The bytes in their places, under the mask that reads best.
 *
 * @param {Grid} frame
 * @param {number[]} bytes
 * @returns {boolean[][]}
 */
function masked(frame, bytes) {
  const places = freePlaces(frame);
  const codes = MASKS.map((isKept, mask) => {
    const grid = frame.map((row) => row.map(Boolean));
    places.forEach(([x, y], i) => {
      const bit = ((bytes[i >> 3] ?? 0) >> (7 - (i & 7))) & 1;
      grid[y][x] = Boolean(bit) !== (isKept(x, y) === 0);
    });
    writeFormat(grid, mask);
    return grid;
  });
  const penalties = codes.map(penalty);
  return codes[penalties.indexOf(Math.min(...penalties))];
}

/**
 * Two columns at a time from the right, upwards and downwards by turns.
 *
 * @param {Grid} frame
 */
function freePlaces(frame) {
  const size = frame.length;
  /** @type {[number, number][]} */
  const places = [];
  let up = true;
  for (let right = size - 1; right > 0; right -= 2, up = !up) {
    if (right === 6) right = 5; // the timing pattern's column
    for (let i = 0; i < size; i++) {
      const y = up ? size - 1 - i : i;
      for (const x of [right, right - 1]) if (frame[y][x] === null) places.push([x, y]);
    }
  }
  return places;
}

/**
 * How hard a code is to read: long runs, blocks, what looks like a finder, more dark than light.
 *
 * @param {boolean[][]} code
 */
function penalty(code) {
  const size = code.length;
  const columns = code.map((_, x) => code.map((row) => row[x]));
  let sum = 0;
  for (const line of [...code, ...columns].map((modules) => modules.map(Number).join(""))) {
    for (const [run] of line.matchAll(/0{5,}|1{5,}/g)) sum += run.length - 2;
    sum += 40 * [...line.matchAll(/(?=10111010000|00001011101)/g)].length;
  }
  for (let y = 1; y < size; y++) {
    for (let x = 1; x < size; x++) {
      const one = code[y][x];
      if (one === code[y - 1][x] && one === code[y][x - 1] && one === code[y - 1][x - 1]) sum += 3;
    }
  }
  const dark = code.flat().filter(Boolean).length / size ** 2;
  return sum + 10 * Math.floor(Math.abs(dark - 0.5) * 20);
}
