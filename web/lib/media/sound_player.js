/**
 * Plays a run's sound: in step with the animation that is played, or by itself if there is none.
 *
 * Silent until the user asks; until then nothing is fetched. It uses the Web Audio API, because a server's
 * policy may keep an <audio> element from playing what the page has fetched.
 */

/** @typedef {import("../data/store.js").Sound} Sound */
/** @typedef {import("./player.js").Player} Player */

/** Seconds that the sound may be away from the picture. */
const DRIFT = 0.12;

/** Up to this difference from the video's pace, the sound keeps its own. */
const SAME_PACE = 0.05;

const TELL_MS = 100;

/** Dispatches `change` on each change, and regularly while it plays by itself. */
export class SoundPlayer extends EventTarget {
  /**
   * @param {Window & typeof globalThis} window
   * @param {Player} player of the animation
   * @param {(sound: Sound) => Promise<Blob | null>} fileOf
   */
  constructor(window, player, fileOf) {
    super();
    this.window = window;
    this.player = player;
    this.fileOf = fileOf;
    /** Whether the user asked to hear it. */
    this.on = false;
    this.volume = 1;
    /** @type {Sound | null} what is to be heard */
    this.sound = null;
    /** @type {Sound | null} what `_buffer` is of */
    this._loaded = null;
    /** @type {AudioBuffer | null} */
    this._buffer = null;
    /** @type {AudioContext | null} made when the user asks: browsers allow it only then */
    this._context = null;
    /** @type {GainNode | null} */
    this._gain = null;
    /** @type {AudioBufferSourceNode | null} what is heard now */
    this._source = null;
    /** Where it was at the context's time `_since`, in seconds. */
    this._place = 0;
    this._since = 0;
    this._timer = 0;
    player.addEventListener("change", () => this._follow());
  }

  /** Whether there is an animation that it goes with. */
  get follows() {
    return this.player.shown !== null;
  }

  /** Seconds from its beginning. */
  get seconds() {
    const { _source: source, _context: context, _buffer: buffer } = this;
    if (!source || !context || !buffer) return this._place;
    const at = this._place + (context.currentTime - this._since) * source.playbackRate.value;
    return source.loop ? at % buffer.duration : Math.min(at, buffer.duration);
  }

  /** @param {number} volume from 0 to 1 */
  setVolume(volume) {
    this.volume = volume;
    if (this._gain) this._gain.gain.value = volume;
    this._tell();
  }

  /** @param {Sound | null} sound */
  show(sound) {
    if (sound === this.sound) return this._follow(); // its run may have ended
    this.sound = sound;
    if (!sound) {
      this.on = false;
      this._stop();
      this._place = 0;
      this._loaded = this._buffer = null;
    }
    this._update();
  }

  toggle() {
    this.on = !this.on && this.sound !== null;
    this._update();
  }

  /** @param {number} seconds where to go on, while it plays by itself */
  seek(seconds) {
    const isPlaying = this._source !== null;
    this._stop();
    this._place = seconds;
    if (isPlaying) this._follow();
    this._tell();
  }

  close() {
    this.show(null);
    void this._context?.close();
    this._context = null;
  }

  _update() {
    if (this.on && this.sound !== this._loaded) void this._load(/** @type {Sound} */ (this.sound));
    this._follow();
    this._tell();
  }

  /** @param {Sound} sound continues where the one before was */
  async _load(sound) {
    const context = (this._context ??= this._opened());
    void context.resume();
    const file = await this.fileOf(sound);
    const buffer = file && (await context.decodeAudioData(await file.arrayBuffer()).catch(() => null));
    if (!this.on || sound !== this.sound) return;
    this._stop();
    if (!buffer) return this.show(null);
    this._loaded = sound;
    this._buffer = buffer;
    this._follow();
    this._tell();
  }

  _opened() {
    const context = new this.window.AudioContext();
    this._gain = context.createGain();
    this._gain.gain.value = this.volume;
    this._gain.connect(context.destination);
    return context;
  }

  /** Play or not, and where the animation is. */
  _follow() {
    const { player, sound, _buffer: buffer } = this;
    if (!this.on || !sound || !buffer || (sound !== this._loaded && !this._source)) return this._pause();
    if (!this.follows) {
      if (this._source?.loop === sound.run.live && this._source.playbackRate.value === 1) return;
      return this._play(this.seconds >= buffer.duration ? 0 : this.seconds, 1, sound.run.live);
    }
    const pace = sound.ofSeconds / player.duration;
    const rate = Math.abs(pace - 1) < SAME_PACE ? 1 : Math.min(4, Math.max(0.25, pace));
    const at = player.place * player.duration * rate;
    if (!player.playing || at >= buffer.duration) return this._pause();
    const isInStep = this._source?.playbackRate.value === rate && Math.abs(this.seconds - at) < DRIFT;
    if (!isInStep) this._play(at, rate, false);
  }

  /**
   * @param {number} at in seconds
   * @param {number} rate
   * @param {boolean} loop
   */
  _play(at, rate, loop) {
    const context = /** @type {AudioContext} */ (this._context);
    this._stop();
    void context.resume();
    const source = context.createBufferSource();
    source.buffer = this._buffer;
    source.loop = loop;
    source.playbackRate.value = rate;
    source.connect(/** @type {GainNode} */ (this._gain));
    source.onended = () => this._onEnded(source);
    source.start(0, at);
    this._source = source;
    this._place = at;
    this._since = context.currentTime;
    this._timer = this.window.setInterval(() => this._tell(), TELL_MS);
  }

  /** Stop where it is. */
  _stop() {
    this._place = this.seconds;
    this.window.clearInterval(this._timer);
    const source = this._source;
    this._source = null;
    source?.stop();
    source?.disconnect();
  }

  /** Nothing is heard, and no device is held. */
  _pause() {
    if (this._source) this._stop();
    if (this._context?.state === "running") void this._context.suspend();
  }

  /** @param {AudioBufferSourceNode} source */
  _onEnded(source) {
    if (source !== this._source) return; // stopped, and another one plays
    this._stop();
    if (this.follows) return;
    this._place = 0;
    this.on = false;
    this._pause();
    this._tell();
  }

  _tell() {
    this.dispatchEvent(new CustomEvent("change"));
  }
}
