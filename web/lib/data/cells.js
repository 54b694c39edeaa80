/** Several images of a batch in one picture, in cells of equal size: where each one is. */

/**
 * @typedef {object} Cells
 * @property {number} columns
 * @property {number} rows
 * @property {number[]} images their places in the batch, row by row; the last row may be shorter
 */

/** @typedef {{ x: number, y: number, width: number, height: number }} Part in pixels */

/**
 * The part of a picture that shows one image of the batch: all of it if there is no such part.
 *
 * @param {Cells | null} cells
 * @param {number | null} image its place in the batch
 * @param {number} width of the whole picture
 * @param {number} height
 * @returns {Part}
 */
export function partOf(cells, image, width, height) {
  const cell = cells && image !== null ? cells.images.indexOf(image) : -1;
  if (!cells || cell < 0) return { x: 0, y: 0, width, height };
  const { columns, rows } = cells;
  const cellWidth = Math.floor(width / columns);
  const cellHeight = Math.floor(height / rows);
  return {
    x: (cell % columns) * cellWidth,
    y: Math.floor(cell / columns) * cellHeight,
    width: cellWidth,
    height: cellHeight,
  };
}
