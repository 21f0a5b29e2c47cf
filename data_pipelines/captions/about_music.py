"""Is a sentence about music? A guess from its words, and what language models say about themselves.

A sentence passes when it has a word of the field: an instrument, a genre, a part of a song, a word
of sound, rhythm, voice or production. So it cannot tell what a word means ("children play", "a key
opens the door" pass), and it loses sentences on a mood or an occasion alone ("It would suit a rainy
afternoon."). It knows English only. Do not use it for other languages or for short labels.
"""

import re

_WORDS = """
accompaniment acoustic album alto ambience ambient amplified anthem aria arpeggiated arpeggio
arrangement artist atmosphere atonal audio autotune backbeat ballad band bar bass bassline bassy
beat beatbox bebop bluesy boom bowed bpm brass brassy bridge cadence cappella catchy chant chime
choir choral chord chordal choreography chorus chromatic clap classical club compose composer
composition concert conductor consonant counterpoint crescendo croon cymbal dance danceable delay
dissonance dissonant distorted distortion dj downbeat drone drop drum drummer drumming dub duet
dynamics echo effect electronic electronica ensemble equalizer falsetto feedback feel fidelity
fill finger fingerpicked fingerpicking fingerstyle folk folky fretless funk funky fuzz genre gig
glissando groove groovy growl guitarist harmonic harmonics harmonious harmonise harmonize harmony
headphone hiss hook hum humming improvisation improvise improvised instrument instrumental
instrumentalist instrumentation interlude intro jam jazzy jingle key keyboard keyboardist kick
legato lick listen listener live loop looped lullaby lyric lyrical lyrics major march masterpiece
measure medley melancholic melodic melody metallic meter metre metronome mic microphone minor mix
mixed mixing mono monophonic mood motif movement muffled music musical musician noise note octave
off-beat offbeat opera operatic orchestra orchestral orchestration ostinato outro overdrive
overdriven overture pad palm-muted pan panned part pedal percussion percussionist percussive
performance performer phaser phrase piece pitch pitched play played player playing pluck plucked
plucking polyphonic polyrhythm prelude producer production pulsating pulse quality quartet quintet
rap rapper rapping recording refrain register remix resonance reverb reverberant reverberation
rhyme rhythm rhythmic riff ritardando rubato sample sampled sampler scale scat score scratching
sequencer serenade session shout shuffle sibilant sing singer singing slap slide snap solo soloist
sonata song songwriter sonic soprano sound soundscape soundtrack speaker spoken staccato stereo
string strum strummed strumming studio sung sweep swell symphonic symphony syncopated syncopation
synth synthetic tempo tenor texture theme timbre timing tonal tone track transient treble tremolo
trill trio tune tuned tuning turntable unison upbeat verse vibe vibrato virtuosic virtuoso vocal
vocalist vocalization vocals vocoder voice waltz whistle whistling
"""
_INSTRUMENTS = """
303 404 707 808 909 accordion bagpipe balalaika banjo bassoon bell bodhran bongo bouzouki brushes
celesta cellist cello clarinet claves clavinet conga contrabass cornet cowbell didgeridoo djembe
dulcimer erhu euphonium fiddle flugelhorn flute flutist glockenspiel gong guitar guzheng harmonica
harmonium harp harpsichord hi-hat hihat horn kalimba kora koto lute lyre mandolin maraca marimba
mbira mellotron moog oboe organ organist oud pianist piano piccolo pipa recorder rhodes sarangi
sarod sax saxophone saxophonist shaker shamisen shofar sitar snare steelpan synthesiser
synthesizer tabla tabor taiko tambourine theremin timpani tom trombone trumpet trumpeter tuba uke
ukulele vibraphone viola violin violinist woodblock woodwind wurlitzer xylophone zither
"""
_GENRES = """
afrobeat afrobeats bachata baroque bhangra bluegrass blues bollywood bossa breakbeat calypso
carnatic celtic chillout chillwave cinematic country cumbia dancehall dancepop disco doowop
downtempo drill dubstep edm electro electropop emo eurodance fado flamenco fusion gamelan garage
glitch gospel grunge hardcore hardstyle hip-hop hiphop house idm indie industrial jazz jungle
k-pop klezmer lo-fi lofi mariachi merengue metal metalcore motown neoclassical newage polka pop
punk qawwali r&b raga ragtime reggae reggaeton rnb rock rockabilly salsa samba schlager shoegaze
ska soukous soul soulful swing synthpop synthwave tango techno trance trap trip-hop vaporwave
zydeco
"""
_KNOWN = frozenset(f"{_WORDS} {_INSTRUMENTS} {_GENRES}".split())
_WORD = re.compile(r"[a-z0-9&]+(?:-[a-z0-9]+)*")
_ENDINGS = ("s", "es", "ed", "d", "ing", "y", "ly", "er", "ist", "ic")

_CHATTER = re.compile(
  r"^(?:sure|certainly|of course|okay|ok)\b[,!.]|^here (?:are|is)\b|^here's\b"
  r"|\b(?:as|i am|i'm) an? (?:\w+ )?(?:ai|assistant|(?:large )?language model)\b"
  r"|\bi(?:'m| am) (?:sorry|unable|not able|not familiar)\b|^(?:sorry|unfortunately)\b"
  r"|\bi (?:cannot|can't|can not|don't|do not) (?:have|know|provide|listen|hear|access|describe)\b"
  r"|\blet me know\b|\bfeel free\b|\bhope (?:this|that) helps\b|https?://|\bwww\.",
  re.IGNORECASE,
)


def is_about_music(text: str) -> bool:
  """Whether a word of the field is in it; see the module for what that misses."""
  return any(map(_known, _parts(text.lower())))


def is_chatter(text: str) -> bool:
  """Whether it reads as a language model speaking of itself or to its user, or holds a link."""
  return _CHATTER.search(text) is not None


def _parts(text: str):
  for word in _WORD.findall(text):
    yield word
    if "-" in word:
      yield from word.split("-")


def _known(word: str) -> bool:
  if word in _KNOWN:
    return True
  stems = (word.removesuffix(end) for end in _ENDINGS if word.endswith(end) and len(word) > 4)
  return any(stem in _KNOWN or f"{stem}e" in _KNOWN for stem in stems)
