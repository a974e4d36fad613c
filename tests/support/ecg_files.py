"""
Writers of one recording in the formats of electrocardiographs, from the public descriptions of the formats and apart
from the readers: MUSE and CardioSoft XML, HL7 aECG, Philips SierraECG, Mortara and AliveCor as text, SCP-ECG, ISHNE,
MFER and EDF byte by byte, and DICOM with pydicom. All are of the patient Jane Doe, number 4711.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from clear_hug_hf import STANDARD_LEADS
from clear_hug_hf.processing.leads import derive_limb_lead


FAMILY, GIVEN, NUMBER = "Doesworth", "Janewyn", "4711-8"
EIGHT = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
RATE = 500
# SCP-ECG and MFER number the leads alike.
_CODES = dict(zip(EIGHT, range(1, 9), strict=True)) | {"III": 61, "aVR": 62, "aVL": 63, "aVF": 64}


def complete(leads: Mapping[str, np.ndarray]) -> np.ndarray:
    """The 12 standard leads of eight."""
    limb = {name: derive_limb_lead(name, leads["I"], leads["II"]) for name in ("III", "aVR", "aVL", "aVF")}
    return np.stack([(leads | limb)[name] for name in STANDARD_LEADS])


def _counts(signals: Mapping[str, np.ndarray], microvolts: float) -> dict[str, np.ndarray]:
    return {name: np.rint(lead * 1000 / microvolts).astype("<i2") for name, lead in signals.items()}


def _text(samples: np.ndarray, separator: str = " ") -> str:
    return separator.join(map(str, samples.tolist()))


def muse(leads: Mapping[str, np.ndarray], unit: str = "MICROVOLTS", base: str = str(RATE), repeat: int = 1) -> bytes:
    rows = "".join(
        f"<LeadData><LeadID>{name}</LeadID><LeadSampleSize>2</LeadSampleSize><LeadAmplitudeUnitsPerBit>4.88"
        f"</LeadAmplitudeUnitsPerBit><LeadAmplitudeUnits>{unit}</LeadAmplitudeUnits><LeadDataCRC32>"
        f"{binascii.crc32(lead.tobytes())}</LeadDataCRC32><WaveFormData>{base64.b64encode(lead.tobytes()).decode()}"
        "</WaveFormData></LeadData>"
        for name, lead in _counts(leads, 4.88).items()
    )
    waveform = (
        f"<Waveform><WaveformType>Rhythm</WaveformType><SampleBase>{base}</SampleBase><SampleExponent>0"
        f"</SampleExponent><HighPassFilter>56</HighPassFilter>{rows}</Waveform>"
    )
    return (
        '<?xml version="1.0" encoding="ISO-8859-1"?><!DOCTYPE RestingECG SYSTEM "restecg.dtd"><RestingECG>'
        f"<PatientDemographics><PatientID>{NUMBER}</PatientID><PatientAge>61</PatientAge><AgeUnits>YEARS</AgeUnits>"
        f"<Gender>FEMALE</Gender><PatientLastName>{FAMILY}</PatientLastName><PatientFirstName>{GIVEN}"
        "</PatientFirstName></PatientDemographics><TestDemographics><AcquisitionDevice>MAC55</AcquisitionDevice>"
        "<AcquisitionTime>10:20:30</AcquisitionTime><AcquisitionDate>02-01-2024</AcquisitionDate></TestDemographics>"
        f"{waveform * repeat}</RestingECG>"
    ).encode("latin-1")


def aecg(leads: Mapping[str, np.ndarray], unit: str = "uV", interval: str = "0.002", repeat: int = 1) -> bytes:
    sequences = "".join(
        f'<component><sequence><code code="MDC_ECG_LEAD_{name.upper()}"/><value xsi:type="SLIST_PQ"><origin value="0" '
        f'unit="{unit}"/><scale value="1" unit="{unit}"/><digits>{_text(lead)}</digits></value></sequence></component>'
        for name, lead in _counts(leads, 1).items()
    )
    series = (
        '<component><series><code code="RHYTHM"/><component><sequenceSet><component><sequence><code '
        'code="TIME_RELATIVE"/><value xsi:type="GLIST_PQ"><head value="0" unit="s"/><increment '
        f'value="{interval}" unit="s"/></value></sequence></component>{sequences}</sequenceSet></component></series>'
        "</component>"
    )
    return (
        '<?xml version="1.0"?><AnnotatedECG xmlns="urn:hl7-org:v3" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><componentOf><timepointEvent><componentOf>'
        f'<subjectAssignment><subject><trialSubject><id extension="{NUMBER}"/><subjectDemographicPerson><name><family>'
        f"{FAMILY}</family><given>{GIVEN}</given></name></subjectDemographicPerson></trialSubject></subject>"
        f"</subjectAssignment></componentOf></timepointEvent></componentOf>{series * repeat}</AnnotatedECG>"
    ).encode()


def dicom(
    leads: Mapping[str, np.ndarray], path: Path, repeat: int = 1, padding: int | None = None, unit: str = "uV"
) -> None:
    """Write a file with microvolts of 16 bits, by pydicom."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.sequence import Sequence
    from pydicom.uid import ExplicitVRLittleEndian, TwelveLeadECGWaveformStorage, generate_uid

    def code(value: str, scheme: str, meaning: str) -> Sequence:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
        return Sequence([item])

    counts = np.stack(list(_counts(leads, 1).values()))
    group = Dataset()
    group.WaveformOriginality, group.NumberOfWaveformChannels = "ORIGINAL", len(counts)
    group.NumberOfWaveformSamples, group.SamplingFrequency = counts.shape[1], RATE
    group.WaveformBitsAllocated, group.WaveformSampleInterpretation = 16, "SS"
    group.ChannelDefinitionSequence = Sequence()
    for name in leads:
        channel = Dataset()
        channel.ChannelSourceSequence = code(f"MDC_ECG_LEAD_{name.upper()}", "MDC", f"Lead {name}")
        channel.ChannelSensitivity, channel.ChannelSensitivityCorrectionFactor = 1, 1
        channel.ChannelSensitivityUnitsSequence = code(unit, "UCUM", "microvolt")
        channel.ChannelBaseline, channel.WaveformBitsStored = 0, 16
        group.ChannelDefinitionSequence.append(channel)
    group.add_new(0x54001010, "OW", counts.T.tobytes())
    if padding is not None:
        group.add_new(0x5400100A, "OW", struct.pack("<h", padding))
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = TwelveLeadECGWaveformStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid(entropy_srcs=["one"])
    data.PatientName, data.PatientID, data.PatientSex = f"{FAMILY}^{GIVEN}", NUMBER, "F"
    data.add_new(0x00091010, "LO", f"{FAMILY}, {GIVEN}")  # private
    data.WaveformSequence = Sequence([group] * repeat)
    data.save_as(path, enforce_file_format=True)


def scp(leads: Mapping[str, np.ndarray], multiplier: int = 1000) -> bytes:
    """Uncompressed, with a resolution of 1 microvolt."""

    def section(number: int, body: bytes) -> bytes:
        body += b"\0" * (len(body) % 2)
        rest = struct.pack("<HIBB6x", number, len(body) + 16, 20, 20) + body
        return struct.pack("<H", binascii.crc_hqx(rest, 0xFFFF)) + rest

    def field(tag: int, value: bytes) -> bytes:
        return struct.pack("<BH", tag, len(value)) + value

    counts = _counts(leads, 1)
    size = len(next(iter(counts.values())))
    about = field(0, FAMILY.encode() + b"\0") + field(1, GIVEN.encode() + b"\0") + field(2, NUMBER.encode() + b"\0")
    about += field(8, b"\2") + field(255, b"")
    places = b"".join(struct.pack("<IIB", 1, size, _CODES[name]) for name in counts)
    rhythm = struct.pack("<HHBB", multiplier, 1_000_000 // RATE, 0, 0) + struct.pack("<H", 2 * size) * len(counts)
    sections = {
        1: section(1, about),
        3: section(3, struct.pack("<BB", len(counts), 0x04 | len(counts) << 3) + places),
        6: section(6, rhythm + b"".join(lead.tobytes() for lead in counts.values())),
    }
    index, position = b"", 7 + 16 + 10 * (len(sections) + 1)
    for number, content in ({0: b"\0" * (position - 7)} | sections).items():
        index += struct.pack("<HII", number, len(content), 7 if number == 0 else position)
        position += len(content) if number else 0
    record = section(0, index) + b"".join(sections.values())
    rest = struct.pack("<I", len(record) + 6) + record
    return struct.pack("<H", binascii.crc_hqx(rest, 0xFFFF)) + rest


def ishne(leads: Mapping[str, np.ndarray], nanovolts: int = 1000) -> bytes:
    codes = dict(zip(STANDARD_LEADS, range(5, 17), strict=True))
    counts = _counts(leads, 1)
    padding = [-9] * (12 - len(counts))
    size = len(next(iter(counts.values())))
    head = struct.pack("<iiiih", 0, size, 522, 522, 1)
    head += GIVEN.encode().ljust(40, b"\0") + FAMILY.encode().ljust(40, b"\0") + NUMBER.encode().ljust(20, b"\0")
    head += struct.pack("<hh12xhhh6x", 2, 0, 2, 1, 2024)[:26]
    head = head.ljust(156 - 10, b"\0") + struct.pack("<h", len(counts))
    head += struct.pack("<12h", *[codes[name] for name in counts], *padding)
    head += struct.pack("<12h", *[1] * len(counts), *padding)
    head += struct.pack("<12h", *[nanovolts] * len(counts), *padding)
    head += struct.pack("<h", 0) + b"digital".ljust(40, b"\0") + struct.pack("<h", RATE)
    head = head.ljust(512, b"\0")
    return (
        b"ISHNE1.0"
        + struct.pack("<H", binascii.crc_hqx(head, 0xFFFF))
        + head
        + np.stack(list(counts.values()), axis=1).tobytes()
    )


def mfer(leads: Mapping[str, np.ndarray], with_rate: bool = True) -> bytes:
    def item(tag: int, value: bytes) -> bytes:
        size = len(value)
        length = bytes([size]) if size < 128 else b"\x84" + size.to_bytes(4, "big")
        return bytes([tag]) + length + value

    counts = _counts(leads, 1)
    size = len(next(iter(counts.values())))
    content = item(0x40, b"MFR Standard 12 leads".ljust(32)) + item(0x01, b"\1")
    content += item(0x81, f"{FAMILY}^{GIVEN}".encode()) + item(0x82, NUMBER.encode()) + item(0x84, b"\2")
    if with_rate:
        content += item(0x0B, struct.pack("<BbH", 1, -3, 1000 // RATE))
    content += item(0x0C, struct.pack("<BbH", 0, -6, 1))
    content += item(0x05, bytes([len(counts)])) + item(0x04, struct.pack("<H", size)) + item(0x06, b"\1")
    for number, name in enumerate(counts):
        content += b"\x3f" + bytes([number]) + b"\3" + item(0x09, bytes([_CODES[name]]))
    return content + item(0x1E, b"".join(lead.tobytes() for lead in counts.values())) + b"\x80\0"


def edf(leads: Mapping[str, np.ndarray], unit: str = "uV") -> bytes:
    counts = _counts(leads, 1)
    number, seconds = len(counts), len(next(iter(counts.values()))) // RATE
    head = ["0".ljust(8), f"{NUMBER} F X {GIVEN}_{FAMILY}".ljust(80), "Startdate 02-JAN-2024 X X X".ljust(80)]
    head += ["02.01.24", "10.20.30", str(256 * (number + 1)).ljust(8), "EDF+C".ljust(44), str(seconds).ljust(8)]
    head += ["1".ljust(8), str(number).ljust(4)]
    columns = [(f"ECG {name}", 16) for name in counts], [("electrode", 80)] * number, [(unit, 8)] * number
    limits = [[(value, 8)] * number for value in ("-32768", "32767", "-32768", "32767")]
    rest = [("HP:0.05Hz", 80)] * number, [(str(RATE), 8)] * number, [("", 32)] * number
    head += [text.ljust(width) for column in (*columns, *limits, *rest) for text, width in column]
    blocks = np.stack(list(counts.values())).reshape(number, seconds, RATE).transpose(1, 0, 2)
    return "".join(head).encode() + blocks.tobytes()


def mortara(leads: Mapping[str, np.ndarray]) -> bytes:
    channels = "".join(
        f'<CHANNEL NAME="{name}" BITS="16" FORMAT="SIGNED" ENCODING="BASE64" UNITS_PER_MV="1000" SAMPLE_FREQ="{RATE}" '
        f'DURATION="{len(lead)}" DATA="{base64.b64encode(lead.tobytes()).decode()}"/>'
        for name, lead in _counts(leads, 1).items()
    )
    return (
        f'<?xml version="1.0"?><ECG ACQUISITION_TIME="20240102102030"><SUBJECT LAST_NAME="{FAMILY}" '
        f'FIRST_NAME="{GIVEN}" ID="{NUMBER}" GENDER="F"/><SOURCE MODEL="ELI 280"/>{channels}</ECG>'
    ).encode()


def sierra(leads: Mapping[str, np.ndarray]) -> bytes:
    counts = _counts(leads, 1)
    samples = np.concatenate(list(counts.values()))
    milliseconds = 1000 * len(samples) // len(counts) // RATE
    return (
        '<?xml version="1.0"?><restingecgdata xmlns="http://www3.medical.philips.com"><documentinfo><documenttype>'
        "PhilipsECG</documenttype><documentversion>1.04</documentversion></documentinfo><patient><generalpatientdata>"
        f"<patientid>{NUMBER}</patientid><name><lastname>{FAMILY}</lastname><firstname>{GIVEN}</firstname></name><sex>"
        "Female</sex></generalpatientdata></patient><dataacquisition><signalcharacteristics><samplingrate>"
        f"{RATE}</samplingrate><resolution>1</resolution></signalcharacteristics></dataacquisition><waveforms>"
        f'<parsedwaveforms durationperchannel="{milliseconds}" numberofleads="{len(counts)}" dataencoding="Base64" '
        f'compression="none" leadlabels="{" ".join(counts)}">{base64.b64encode(samples.tobytes()).decode()}'
        "</parsedwaveforms></waveforms></restingecgdata>"
    ).encode()


def kardia(leads: Mapping[str, np.ndarray]) -> bytes:
    names = {"I": "leadI", "II": "leadII", "III": "leadIII", "aVR": "AVR", "aVL": "AVL", "aVF": "AVF"}
    samples = {names[name]: lead.tolist() for name, lead in _counts(leads, 0.5).items() if name in names}
    raw = {"frequency": RATE, "mainsFrequency": 50, "amplitudeResolution": 500, "samples": samples}
    about = {"id": "x", "patientID": NUMBER, "recordedAt": "2024-01-02T10:20:30Z", "note": f"{GIVEN} {FAMILY}"}
    return json.dumps(about | {"data": {"raw": raw}}).encode()


def cardiosoft(
    leads: Mapping[str, np.ndarray], repeat: int = 1, unit: str = "uVperLsb", rate: str = str(RATE)
) -> bytes:
    counts = _counts(leads, 5)
    rows = "".join(f'<WaveformData lead="{name}">{_text(lead, ",")}</WaveformData>' for name, lead in counts.items())
    strip = (
        f'<StripData><NumberOfLeads>{len(counts)}</NumberOfLeads><SampleRate units="Hz">{rate}</SampleRate>'
        f"<ChannelSampleCountTotal>{len(next(iter(counts.values())))}</ChannelSampleCountTotal>"
        f'<Resolution units="{unit}">5</Resolution>{rows}</StripData>'
    )
    return (
        '<?xml version="1.0" encoding="ISO-8859-1"?><CardiologyXML><ObservationType>RestECG</ObservationType>'
        "<ObservationDateTime><Hour>10</Hour><Minute>20</Minute><Second>30</Second><Day>2</Day><Month>1</Month><Year>"
        f"2024</Year></ObservationDateTime><PatientInfo><PID>{NUMBER}</PID><Name><FamilyName>{FAMILY}</FamilyName>"
        f'<GivenName>{GIVEN}</GivenName></Name><Age units="years">61</Age><Gender>FEMALE</Gender></PatientInfo>'
        f"{strip * repeat}</CardiologyXML>"
    ).encode("latin-1")


WRITERS: dict[str, Callable[[Mapping[str, np.ndarray]], bytes]] = {
    "GE MUSE XML": muse,
    "HL7 aECG": aecg,
    "SCP-ECG": scp,
    "Philips SierraECG": sierra,
    "ISHNE": ishne,
    "MFER": mfer,
    "EDF": edf,
    "Mortara ELI XML": mortara,
    "AliveCor Kardia": kardia,
    "GE CardioSoft XML": cardiosoft,
}
"""Writers of the formats, except DICOM."""


def write(path: Path, kind: str, leads: Mapping[str, np.ndarray]) -> Path:
    """Write a recording of named leads [mV] at [`RATE`] in a format."""
    if kind == "DICOM":
        dicom(leads, path)
    else:
        path.write_bytes(WRITERS[kind](leads))
    return path
