// A client of NavTalk v2 that does what the vendor's documents tell a browser to do, in their order and no more
// tolerantly than they do; beside it, what a test looks at.
// Sources: docs.navtalk.ai, "WebSocket Connection" (steps 1 to 5), "WebRTC Connection" and "FAQ".
"use strict";

const MICROPHONE_HZ = 24000;
const BURST_SAMPLES = 8192;
const MESSAGE_CHARACTERS = 4096;
// Small enough to hand over every picture of some seconds.
const SAMPLE_SIZE_PX = [36, 64];

class VendorFlow {
  events = []; // {type, at_ms, data}, oldest first; binary messages have the type "binary"
  sent = []; // types of what was sent, oldest first
  peers = []; // one for each offer, the newest last; none is closed when another comes
  problems = []; // what went wrong in the page itself
  droppedCandidates = 0; // that came before there was a peer
  closed = null; // {code, reason}

  // settings: url, license, name; voice, prompt, tools; history (of roles user and assistant); toolOutput.
  constructor(settings) {
    this.settings = settings;
    // The documented page begins with a public STUN server in here: a test's begins with none.
    this.rtc = { iceServers: [] };
    this.handlers = {
      "conversation.connected.success": (data) => this.rememberSession(data),
      "realtime.session.created": () => this.sendHistory(),
      "realtime.session.updated": () => this.startMicrophone(),
      "realtime.response.function_call_arguments.done": (data) => this.answerTool(data),
      "webrtc.signaling.offer": (data) => this.answerOffer(data.sdp),
      "webrtc.signaling.iceCandidate": (data) => this.addCandidate(data.candidate),
    };
    this.connect(settings);
  }

  connect({ url, license, name }) {
    this.socket = new WebSocket(`${url}?license=${encodeURIComponent(license)}&name=${encodeURIComponent(name)}`);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => this.configure();
    this.socket.onmessage = (message) => this.take(message.data);
    this.socket.onerror = () => this.problems.push("the WebSocket failed");
    this.socket.onclose = ({ code, reason }) => (this.closed = { code, reason });
  }

  // ---------------------------------------------------------------------------------------- the conversation

  async take(frame) {
    const at_ms = performance.now();
    if (typeof frame !== "string") {
      this.events.push({ type: "binary", at_ms, data: null });
      return;
    }
    try {
      const { type, data } = JSON.parse(frame);
      const { delta, ...shown } = data ?? {}; // without the sound
      this.events.push({ type, at_ms, data: shown });
      await this.handlers[type]?.(data);
    } catch (error) {
      this.problems.push(`${error}: ${frame.slice(0, 200)}`);
    }
  }

  send(message) {
    this.sent.push(message.type);
    this.socket.send(JSON.stringify(message));
  }

  configure() {
    const { voice, prompt, tools } = this.settings;
    this.send({ type: "realtime.input_config", data: { content: JSON.stringify({ voice, prompt, tools }) } });
  }

  rememberSession(data) {
    if (!data.sessionId) throw new Error("no sessionId");
    this.sessionId = data.sessionId;
    if (data.iceServers) this.rtc.iceServers = data.iceServers;
  }

  sendHistory() {
    for (const { role, content } of this.settings.history) {
      if (role !== "user") continue; // the service keeps the avatar's own words
      const item = { type: "message", role, content: [{ type: "input_text", text: content }] };
      this.send({ type: "conversation.item.create", item });
    }
  }

  sendText(text) {
    this.send({ type: "realtime.input_text", data: { content: text } });
  }

  answerTool({ call_id, arguments: words }) {
    this.toolArguments = JSON.parse(words);
    const item = { type: "function_call_output", call_id, output: this.settings.toolOutput };
    this.send({ type: "conversation.item.create", item });
    this.send({ type: "response.create" });
  }

  // ---------------------------------------------------------------------------------------- the microphone

  async startMicrophone() {
    this.microphone = await navigator.mediaDevices.getUserMedia({ audio: true });
    this.input = new AudioContext({ sampleRate: MICROPHONE_HZ });
    const processor = this.input.createScriptProcessor(BURST_SAMPLES, 1, 1);
    processor.onaudioprocess = ({ inputBuffer }) => this.sendBurst(inputBuffer.getChannelData(0));
    this.input.createMediaStreamSource(this.microphone).connect(processor).connect(this.input.destination);
  }

  sendBurst(samples) {
    if (this.socket.readyState !== WebSocket.OPEN) return;
    const pcm16 = new DataView(new ArrayBuffer(2 * samples.length));
    samples.forEach((sample, index) => {
      const clipped = Math.min(1, Math.max(-1, sample));
      pcm16.setInt16(2 * index, clipped * (clipped < 0 ? 0x8000 : 0x7fff), true);
    });
    const base64 = btoa(Array.from(new Uint8Array(pcm16.buffer), (byte) => String.fromCharCode(byte)).join(""));
    for (let start = 0; start < base64.length; start += MESSAGE_CHARACTERS) {
      const audio = base64.slice(start, start + MESSAGE_CHARACTERS);
      this.sendAudio(audio);
    }
  }

  sendAudio(audio) {
    this.send({ type: "realtime.input_audio_buffer.append", data: { audio } });
  }

  close() {
    this.microphone?.getTracks().forEach((track) => track.stop());
    this.input?.close();
    this.socket.close();
  }

  // ---------------------------------------------------------------------------------------- the avatar

  async answerOffer(sdp) {
    const offer = new RTCSessionDescription(sdp);
    const peer = new RTCPeerConnection(this.rtc);
    this.peers.push(peer);
    peer.ontrack = ({ streams: [stream] }) => this.show(stream);
    peer.onicecandidate = ({ candidate }) => {
      if (candidate) this.send({ type: "webrtc.signaling.iceCandidate", data: { candidate } });
    };
    await peer.setRemoteDescription(offer);
    await peer.setLocalDescription(await peer.createAnswer());
    this.send({ type: "webrtc.signaling.answer", data: { sdp: peer.localDescription } });
  }

  async addCandidate(candidate) {
    const newest = this.peers.at(-1);
    if (newest) await newest.addIceCandidate(new RTCIceCandidate(candidate));
    else this.droppedCandidates += 1;
  }

  async show(stream) {
    const video = document.getElementById("avatar");
    if (video.srcObject === stream) return; // one stream, two tracks
    video.srcObject = stream;
    this.output ??= new AudioContext();
    this.level = this.output.createAnalyser();
    this.output.createMediaStreamSource(stream).connect(this.level);
    try {
      await video.play();
    } catch (error) {
      // A stream that takes this one's place interrupts it.
      if (error.name !== "AbortError") throw error;
    }
  }

  // ---------------------------------------------------------------------------------------- what a test looks at

  // inbound-rtp of the newest peer by kind, with the codec's name as `mimeType`.
  async media() {
    const report = await this.peers.at(-1).getStats();
    const found = {};
    for (const entry of report.values()) {
      if (entry.type === "inbound-rtp") {
        found[entry.kind] = { ...entry, mimeType: report.get(entry.codecId)?.mimeType };
      }
    }
    return found;
  }

  // Every picture shown in so many seconds: {sound, luma}, the sound's RMS and SAMPLE_SIZE_PX of luma as base64.
  watch(seconds) {
    const video = document.getElementById("avatar");
    const canvas = new OffscreenCanvas(...SAMPLE_SIZE_PX).getContext("2d", { willReadFrequently: true });
    const wave = new Float32Array(this.level.fftSize);
    const seen = [];
    const until_ms = performance.now() + 1000 * seconds;
    return new Promise((resolve) => {
      const look = () => {
        canvas.drawImage(video, 0, 0, ...SAMPLE_SIZE_PX);
        const { data } = canvas.getImageData(0, 0, ...SAMPLE_SIZE_PX);
        const luma = [];
        for (let at = 0; at < data.length; at += 4) {
          luma.push(Math.round(0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2]));
        }
        this.level.getFloatTimeDomainData(wave);
        seen.push({ sound: Math.hypot(...wave) / Math.sqrt(wave.length), luma: btoa(String.fromCharCode(...luma)) });
        if (performance.now() < until_ms) video.requestVideoFrameCallback(look);
        else resolve(seen);
      };
      video.requestVideoFrameCallback(look);
    });
  }
}
