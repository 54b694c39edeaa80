/**
 * Plays a run's sound: in step with the animation that is played, or by itself where there is none.
 *
 * Silent until somebody asks, and then nothing is fetched.
 */

/** @typedef {import("../data/store.js").Sound} Sound */
/** @typedef {import("./player.js").Player} Player */

/** Seconds that the sound may be away from the picture. */
const DRIFT = 0.12;

/** How far the sound's own pace may be from the video's, so that it is not changed. */
const SAME_PACE = 0.05;

/** Tells of each change by the event `change`, and while it plays by itself as time goes on. */
export class SoundPlayer extends EventTarget {
  /**
   * @param {Document} document
   * @param {Player} player of the animation
   * @param {(sound: Sound) => Promise<Blob | null>} fileOf
   */
  constructor(document, player, fileOf) {
    super();
    this.player = player;
    this.fileOf = fileOf;
    /** Whether somebody asked to hear it. */
    this.on = false;
    /** @type {Sound | null} what is to be heard */
    this.sound = null;
    /** @type {Sound | null} what `audio` has */
    this._loaded = null;
    this.audio = document.createElement("audio");
    this.audio.preload = "auto";
    this.audio.addEventListener("timeupdate", () => this._tell());
    this.audio.addEventListener("ended", () => this._onEnded());
    player.addEventListener("change", () => this._follow());
  }

  /** Whether there is an animation that it goes with. */
  get follows() {
    return this.player.shown !== null;
  }

  /** Seconds from its beginning. */
  get seconds() {
    return this.audio.currentTime;
  }

  get volume() {
    return this.audio.volume;
  }

  /** @param {number} volume from 0 to 1 */
  setVolume(volume) {
    this.audio.volume = volume;
    this._tell();
  }

  /** @param {Sound | null} sound */
  show(sound) {
    if (sound === this.sound) return;
    this.sound = sound;
    if (!sound) this.on = false;
    this._update();
  }

  toggle() {
    this.on = !this.on && this.sound !== null;
    if (this.on && this.audio.ended) this.audio.currentTime = 0;
    this._update();
  }

  /** @param {number} seconds where to go on, while it plays by itself */
  seek(seconds) {
    this.audio.currentTime = seconds;
    this._tell();
  }

  close() {
    this.show(null);
    this._unload();
  }

  _update() {
    if (this.on && this.sound !== this._loaded) void this._load(/** @type {Sound} */ (this.sound));
    this._follow();
    this._tell();
  }

  /** @param {Sound} sound goes on where the one before was */
  async _load(sound) {
    const file = await this.fileOf(sound);
    if (!this.on || sound !== this.sound) return;
    const at = this.audio.currentTime;
    this._unload();
    if (!file) return this.show(null);
    this._loaded = sound;
    this.audio.src = URL.createObjectURL(file);
    this.audio.currentTime = Math.min(at, sound.seconds);
    this._follow();
    this._tell();
  }

  _unload() {
    this._loaded = null;
    if (!this.audio.src) return;
    this.audio.pause();
    URL.revokeObjectURL(this.audio.src);
    this.audio.removeAttribute("src");
    this.audio.load(); // nothing
  }

  /** Play or not, and where the animation is. */
  _follow() {
    const { audio, player } = this;
    const sound = this._loaded;
    if (!this.on || !sound || sound !== this.sound) return audio.pause();
    if (!this.follows) {
      audio.loop = sound.run.live;
      audio.playbackRate = 1;
      return this._play();
    }
    const pace = sound.ofSeconds / player.duration;
    audio.loop = false;
    audio.playbackRate = Math.abs(pace - 1) < SAME_PACE ? 1 : Math.min(4, Math.max(0.25, pace));
    const at = player.place * player.duration * audio.playbackRate;
    if (!player.playing || at >= sound.seconds) return audio.pause();
    if (Math.abs(audio.currentTime - at) > DRIFT) audio.currentTime = at;
    this._play();
  }

  _play() {
    if (!this.audio.paused) return;
    this.audio.play().catch((error) => {
      if (error.name === "AbortError") return; // paused or replaced meanwhile
      this.on = false;
      this._tell();
    });
  }

  _onEnded() {
    if (!this.follows) this.on = false;
    this._tell();
  }

  _tell() {
    this.dispatchEvent(new CustomEvent("change"));
  }
}
