// A client of NavTalk's older interface that does what the vendor's page tells a browser to do, in its order and no more
// tolerantly than it does. What a test looks at is that of VendorFlow.
// Source: docs.navtalk.ai, "Real-time Digital Human Interaction" (steps 1 to 5).
"use strict";

class LegacyFlow extends VendorFlow {
  // settings: url, signalUrl, license, name; voice, prompt, tools; toolOutput.
  connect({ url, signalUrl, license, name }) {
    this.words = [];
    this.nSoundBytes = 0;
    this.handlers = {
      "session.created": () => this.sendSessionUpdate(),
      "session.updated": () => this.startMicrophone(),
      "response.audio_transcript.delta": (data) => this.words.push(data.delta.text),
      "response.audio.delta": (data) => (this.nSoundBytes += atob(data.delta).length),
      "response.function_call_arguments.done": (data) => this.answerTool(data),
    };
    this.socket = new WebSocket(`${url}?license=${encodeURIComponent(license)}&characterName=${name}`);
    this.socket.binaryType = "arraybuffer";
    this.socket.onmessage = (message) => this.take(message.data);
    this.socket.onerror = () => this.problems.push("the WebSocket failed");
    this.socket.onclose = ({ code, reason }) => (this.closed = { code, reason });

    // One peer connection for life, and answers without candidates: those are for checks to find out.
    const peer = new RTCPeerConnection(this.rtc);
    this.peers.push(peer);
    peer.ontrack = ({ streams: [stream] }) => this.show(stream);
    this.signalling = new WebSocket(`${signalUrl}?userId=${license}`);
    this.signalling.onmessage = (message) => this.takeSignal(JSON.parse(message.data));
    this.signalling.onerror = () => this.problems.push("the WebSocket of signalling failed");
  }

  async take(frame) {
    const at_ms = performance.now();
    if (typeof frame !== "string") {
      this.nSoundBytes += frame.byteLength;
      return;
    }
    try {
      const data = JSON.parse(frame);
      const { delta, ...shown } = data;
      this.events.push({ type: data.type, at_ms, data: shown });
      await this.handlers[data.type]?.(data);
    } catch (error) {
      this.problems.push(`${error}: ${frame.slice(0, 200)}`);
    }
  }

  sendSessionUpdate() {
    const { voice, prompt, tools } = this.settings;
    this.send({
      type: "session.update",
      session: {
        instructions: prompt,
        voice,
        temperature: 0.7,
        max_response_output_tokens: 1024,
        modalities: ["text", "audio"],
        input_audio_format: "pcm16",
        output_audio_format: "pcm16",
        input_audio_transcription: { model: "whisper-1" },
        tools,
      },
    });
  }

  sendAudio(audio) {
    this.send({ type: "input_audio_buffer.append", audio });
  }

  async takeSignal(message) {
    const [peer] = this.peers;
    try {
      switch (message.type) {
        case "offer": {
          await peer.setRemoteDescription(message.sdp);
          const answer = await peer.createAnswer();
          await peer.setLocalDescription(answer);
          const { targetSessionId } = message;
          this.signalling.send(JSON.stringify({ type: "answer", targetSessionId, sdp: answer }));
          break;
        }
        case "iceCandidate":
          await peer.addIceCandidate(message.candidate);
          break;
      }
    } catch (error) {
      this.problems.push(`${error}: ${message.type}`);
    }
  }

  close() {
    super.close();
    this.signalling.close();
  }
}
