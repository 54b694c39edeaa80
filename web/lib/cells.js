/** Several images of a batch in one picture, in cells of equal size: which cell shows which. */

/**
 * @typedef {object} Mosaic
 * @property {number} columns
 * @property {number} rows
 * @property {number[]} images their places in the batch, row by row; the last row may be shorter
 */

/** @typedef {{ x: number, y: number, width: number, height: number }} Part in pixels */

/**
 * @param {any} told a frame's `grid`, as the server sends it
 * @returns {Mosaic | null} null where there is nothing to choose from
 */
export function mosaicOf(told) {
  return told?.images?.length > 1 ? told : null;
}

/**
 * The part of a picture that shows one image of the batch: all of it where there is no such part.
 *
 * @param {Mosaic | null} mosaic
 * @param {number | null} image its place in the batch
 * @param {number} width of the whole picture
 * @param {number} height
 * @returns {Part}
 */
export function partOf(mosaic, image, width, height) {
  const cell = mosaic && image !== null ? mosaic.images.indexOf(image) : -1;
  if (!mosaic || cell < 0) return { x: 0, y: 0, width, height };
  const { columns, rows } = mosaic;
  const cellWidth = Math.floor(width / columns);
  const cellHeight = Math.floor(height / rows);
  return {
    x: (cell % columns) * cellWidth,
    y: Math.floor(cell / columns) * cellHeight,
    width: cellWidth,
    height: cellHeight,
  };
}

/**
 * How many images the batch has at least.
 *
 * @param {Mosaic} mosaic
 */
export function batchOf(mosaic) {
  return Math.max(...mosaic.images) + 1;
}
