"""
Label sets map the diagnostic codes of a source to labels and exclude recordings that are not part of a benchmark.

Label names and their order follow the label files that MERL (Liu et al., 2024) published and on which later papers
were evaluated, so that model outputs can be compared one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..processing.errors import InputError


@dataclass(frozen=True)
class LabelSet:
    """
    Labels of one benchmark, defined by the codes of a source.

    Args:
        name (`str`): Name of the set in [`LABEL_SETS`].
        names (`tuple[str, ...]`): Label names, in the order of the model's outputs.
        descriptions (`Mapping[str, str]`): Meaning of each label.
        codes (`Mapping[str, tuple[str, ...]]`): Labels of each code; other codes have none.
        readers (`tuple[str, ...]`): Kinds of sources that use these codes.
        databases (`tuple[str, ...]`): Databases of the PhysioNet Challenge that the set applies to; empty if the
            source is a single database.
        known_codes (`frozenset[str]`, *optional*): Recordings with any other code are excluded.
        exclude_unlabeled (`bool`, *optional*, defaults to `True`): Whether to exclude recordings without any of the
            labels, as the published files do.
    """

    name: str
    names: tuple[str, ...]
    descriptions: Mapping[str, str]
    codes: Mapping[str, tuple[str, ...]]
    readers: tuple[str, ...]
    databases: tuple[str, ...] = ()
    known_codes: frozenset[str] | None = None
    exclude_unlabeled: bool = True

    def labels(self, codes: Iterable[str]) -> dict[str, float]:
        """
        Multi-hot labels of a recording.

        Args:
            codes (`Iterable[str]`): Codes of the recording, as its source spells them.

        Returns:
            `dict[str, float]`: 1 or 0 for every label, in order.
        """
        present = {name for code in codes for name in self.codes.get(code, ())}
        return {name: float(name in present) for name in self.names}

    def exclusion_reason(self, codes: Iterable[str]) -> str | None:
        """Why the benchmark excludes a recording with these codes, or `None` if it is included."""
        codes = list(codes)
        if self.known_codes is not None and (unknown := [code for code in codes if code not in self.known_codes]):
            return f"it has the code {unknown[0]}, which is not in the code table of {self.name}"
        if self.exclude_unlabeled and not any(self.codes.get(code) for code in codes):
            return f"it has none of the labels of {self.name}"
        return None


def get_label_set(name: str, reader: str | None = None) -> LabelSet:
    """
    Get a label set by name.

    Args:
        name (`str`): One of [`LABEL_SETS`].
        reader (`str`, *optional*): Kind of source to which it must apply.

    Raises:
        InputError: If there is no such set, or it does not apply to the source.
    """
    names = [name for name, label_set in LABEL_SETS.items() if reader is None or reader in label_set.readers]
    if name not in names:
        problem = "unknown label set" if name not in LABEL_SETS else f"{reader} recordings do not use the codes of"
        raise InputError(f"{problem} {name!r}: choose from {', '.join(names) or 'none: this source has no label set'}")
    return LABEL_SETS[name]


# ------------------------------------------------------------------------------------------------------------ PTB-XL

# Statement, diagnostic class and subclass (dashes where it is not diagnostic), kinds (d diagnostic, f form, r rhythm)
# and meaning: the facts of PTB-XL's scp_statements.csv (Wagner et al., 2020), in its order.
_SCP_STATEMENTS = """
NDT STTC STTC df non-diagnostic T abnormalities
NST_ STTC NST df non-specific ST changes
DIG STTC STTC df digitalis effect
LNGQT STTC STTC df long QT interval
NORM NORM NORM d normal ECG
IMI MI IMI d inferior myocardial infarction
ASMI MI AMI d anteroseptal myocardial infarction
LVH HYP LVH d left ventricular hypertrophy
LAFB CD LAFB/LPFB d left anterior fascicular block
ISC_ STTC ISC d non-specific ischemic changes
IRBBB CD IRBBB d incomplete right bundle branch block
1AVB CD AVB d first degree AV block
IVCD CD IVCD d non-specific intraventricular conduction disturbance
ISCAL STTC ISCA d ischemic changes in anterolateral leads
CRBBB CD CRBBB d complete right bundle branch block
CLBBB CD CLBBB d complete left bundle branch block
ILMI MI IMI d inferolateral myocardial infarction
LAO/LAE HYP LAO/LAE d left atrial overload or enlargement
AMI MI AMI d anterior myocardial infarction
ALMI MI AMI d anterolateral myocardial infarction
ISCIN STTC ISCI d ischemic changes in inferior leads
INJAS MI AMI d subendocardial injury in anteroseptal leads
LMI MI LMI d lateral myocardial infarction
ISCIL STTC ISCI d ischemic changes in inferolateral leads
LPFB CD LAFB/LPFB d left posterior fascicular block
ISCAS STTC ISCA d ischemic changes in anteroseptal leads
INJAL MI AMI d subendocardial injury in anterolateral leads
ISCLA STTC ISCA d ischemic changes in lateral leads
RVH HYP RVH d right ventricular hypertrophy
ANEUR STTC STTC d ST-T changes compatible with ventricular aneurysm
RAO/RAE HYP RAO/RAE d right atrial overload or enlargement
EL STTC STTC d electrolyte disturbance or drug effect
WPW CD WPW d Wolff-Parkinson-White syndrome
ILBBB CD ILBBB d incomplete left bundle branch block
IPLMI MI IMI d inferoposterolateral myocardial infarction
ISCAN STTC ISCA d ischemic changes in anterior leads
IPMI MI IMI d inferoposterior myocardial infarction
SEHYP HYP SEHYP d septal hypertrophy
INJIN MI IMI d subendocardial injury in inferior leads
INJLA MI AMI d subendocardial injury in lateral leads
PMI MI PMI d posterior myocardial infarction
3AVB CD AVB d third degree AV block
INJIL MI IMI d subendocardial injury in inferolateral leads
2AVB CD AVB d second degree AV block
ABQRS - - f abnormal QRS
PVC - - f ventricular premature complex
STD_ - - f non-specific ST depression
VCLVH - - f voltage criteria for left ventricular hypertrophy
QWAVE - - f Q waves present
LOWT - - f low amplitude T waves
NT_ - - f non-specific T wave changes
PAC - - f atrial premature complex
LPR - - f prolonged PR interval
INVT - - f inverted T waves
LVOLT - - f low QRS voltages
HVOLT - - f high QRS voltage
TAB_ - - f T wave abnormality
STE_ - - f non-specific ST elevation
PRC(S) - - f premature complexes
SR - - r sinus rhythm
AFIB - - r atrial fibrillation
STACH - - r sinus tachycardia
SARRH - - r sinus arrhythmia
SBRAD - - r sinus bradycardia
PACE - - r normally functioning artificial pacemaker
SVARR - - r supraventricular arrhythmia
BIGU - - r bigeminal pattern
AFLT - - r atrial flutter
SVTAC - - r supraventricular tachycardia
PSVT - - r paroxysmal supraventricular tachycardia
TRIGU - - r trigeminal pattern
"""
_SUPERCLASSES = {
    "HYP": "hypertrophy",
    "NORM": "normal ECG",
    "MI": "myocardial infarction",
    "CD": "conduction disturbance",
    "STTC": "ST/T change",
}
_SUBCLASSES = (
    "AMI LAFB/LPFB LVH STTC IMI SEHYP CRBBB WPW LAO/LAE NORM AVB RAO/RAE ISC LMI ISCI ISCA NST CLBBB ILBBB IRBBB PMI "
    "RVH IVCD"
)
# Subclasses that are not named like one of their statements.
_COMBINED_SUBCLASSES = {
    "LAFB/LPFB": "left anterior or posterior fascicular block",
    "STTC": "ST/T change",
    "AVB": "AV block",
    "ISCI": "ischemic changes in inferior leads",
    "ISCA": "ischemic changes in anterior or lateral leads",
}
_FORM = "PAC DIG HVOLT STD LPR QWAVE VCLVH NDT TAB LOWT ABQRS LNGQT PRC(S) NT STE NST PVC INVT LVOLT"
_RHYTHM = "SVARR BIGU STACH SARRH SBRAD TRIGU AFIB SR SVTAC PSVT AFLT PACE"


def _ptbxl_label_sets() -> list[LabelSet]:
    """
    The five label sets of PTB-XL (Strodthoff et al., 2020).

    A recording has a label if any of its statements, at any likelihood, maps to it. Likelihood 0 counts: it means
    "not stated", which is what PTB-XL uses for rhythm statements. Trailing underscores of statements are removed.
    """
    statements = [line.split(maxsplit=4) for line in _SCP_STATEMENTS.strip().splitlines()]
    meaning = {code.rstrip("_"): text for code, _, _, _, text in statements}

    def plain(name: str, order: Iterable[str], kind: str) -> LabelSet:
        names = tuple(order)
        codes = {code: (code.rstrip("_"),) for code, _, _, kinds, _ in statements if kind in kinds}
        return LabelSet(name, names, {label: meaning[label] for label in names}, codes, ("ptbxl",))

    diagnostic = [row for row in statements if "d" in row[3]]
    superclass = {code: (label,) for code, label, _, _, _ in diagnostic}
    subclass = {code: (label,) for code, _, label, _, _ in diagnostic}
    subclasses = {label: (meaning | _COMBINED_SUBCLASSES)[label] for label in _SUBCLASSES.split()}
    return [
        LabelSet("ptbxl_super", tuple(_SUPERCLASSES), _SUPERCLASSES, superclass, ("ptbxl",)),
        LabelSet("ptbxl_sub", tuple(subclasses), subclasses, subclass, ("ptbxl",)),
        plain("ptbxl_form", _FORM.split(), "f"),
        plain("ptbxl_rhythm", _RHYTHM.split(), "r"),
        plain("ptbxl_all", meaning, ""),
    ]


# ---------------------------------------------------------------------------------------------------------- CPSC2018

# Label, number in REFERENCE.csv, SNOMED code and abbreviation in the Challenge's headers, meaning. The first Challenge
# headers of 2020 use the abbreviation in `#Dx`, later ones the code.
_CPSC9 = (
    ("AFIB", "2", "164889003", "AF", "atrial fibrillation"),
    ("VPC", "7", "164884008", "PVC", "ventricular premature contraction"),
    ("NORM", "1", "426783006", "Normal", "normal"),
    ("1AVB", "3", "270492004", "I-AVB", "first degree AV block"),
    ("CRBBB", "5", "59118001", "RBBB", "right bundle branch block"),
    ("STE", "9", "164931005", "STE", "ST segment elevation"),
    ("PAC", "6", "284470004", "PAC", "atrial premature contraction"),
    ("CLBBB", "4", "164909002", "LBBB", "left bundle branch block"),
    ("STD", "8", "429622005", "STD", "ST segment depression"),
)


def _cpsc9() -> LabelSet:
    """The nine classes of CPSC2018 (Liu et al., 2018), with the names of MERL's files."""
    return LabelSet(
        "cpsc9",
        names=tuple(row[0] for row in _CPSC9),
        descriptions={row[0]: row[4] for row in _CPSC9},
        codes={code: (row[0],) for row in _CPSC9 for code in row[1:4]},
        readers=("challenge", "cpsc2018"),
        databases=("CPSC2018",),
    )


# --------------------------------------------------------------------------------------- Chapman-Shaoxing-Ningbo (CSN)

# Labels of MERL's files: acronym, SNOMED code, meaning; in the order of the files' columns.
_CSN = """
AQW 164917005 abnormal Q wave
UW 164937009 U wave
SR 426783006 sinus rhythm
WPW 74390002 Wolff-Parkinson-White syndrome
2AVB 195042002 second degree AV block
AT 713422000 atrial tachycardia
VB 11157007 ventricular bigeminy
ARS 47665007 right axis shift
STTC 428750005 ST-T change
SA 427393009 sinus irregularity
STE 164930006 ST segment change upwards
VPB 17338001 ventricular premature beat
TWO 59931005 inverted T wave
STTU 164931005 ST segment tilted up
ALS 39732003 left axis shift
APB 284470004 atrial premature beat
2AVB1 54016002 second degree AV block, type one
PRIE 164947007 prolonged PR interval
CCR 251199005 counterclockwise rotation
CR 251198002 clockwise rotation
AF 164890007 atrial flutter
AVB 233917008 AV block
QTIE 111975006 prolonged QT interval
LBBB 164909002 left bundle branch block
VEB 75532003 ventricular escape beat
SVT 426761007 supraventricular tachycardia
RBBB 59118001 right bundle branch block
1AVB 270492004 first degree AV block
STDD 429622005 ST segment depression
MI 164865005 myocardial infarction
AFIB 164889003 atrial fibrillation
TWC 164934002 T wave change
PWC 164912004 P wave change
ERV 428417006 early repolarization of the ventricles
RVH 89792004 right ventricular hypertrophy
LVH 164873001 left ventricular hypertrophy
ST 427084000 sinus tachycardia
JEB 426995002 junctional escape beat
"""
# The other codes of the database's code table, with the first acronym of codes that have several.
_CSN_OTHER_CODES = {
    "426177001": "SB",
    "251146004": "LVQRSAL",
    "251148003": "LVQRSCL",
    "251147008": "LVQRSLL",
    "698252002": "IDC",
    "195060002": "VPE",
    "13640000": "VFW",
    "251164006": "JPT",
    "446358003": "RAH",
    "251180001": "VET",
    "164942001": "FQRS",
    "233897008": "AVRT",
    "233896004": "AVNRT",
    "28189009": "2AVB2",
    "27885002": "3AVB",
    "251173003": "ABI",
    "195101003": "WAVN",
}


def _csn_label_sets() -> list[LabelSet]:
    """
    The 38 labels of Chapman-Shaoxing-Ningbo (Zheng et al., 2020), as defined and as published.

    The published files include a recording if all of its codes are in the database's code table and at least one
    published column is 1: 23,026 of 45,152. Sinus bradycardia, low QRS voltages, non-specific conduction differences
    and pre-excitation are in the table but not among the 38 labels; the files do not say why.

    `csn` maps each code to its meaning. `csn_published` reproduces the published columns, in which a recording has a
    label if the label's acronym is *part of* the acronym of any of its codes: atrial fibrillation (AFIB) is also
    atrial flutter (AF), every AV block is also ventricular bigeminy (VB), ST changes are also sinus tachycardia (ST),
    and low QRS voltages (LVQRSAL) are also sinus irregularity (SA). Use `csn_published` to compare with published
    results, and `csn` for everything else. The published files contain 147 recordings that `csn` excludes. Two of them
    (sinus bradycardia with pre-excitation) have no label in the published files, either, and `csn_published` excludes
    those.
    """
    rows = [line.split(maxsplit=2) for line in _CSN.strip().splitlines()]
    names = tuple(row[0] for row in rows)
    acronyms = {code: name for name, code, _ in rows} | _CSN_OTHER_CODES

    def make(name: str, codes: Mapping[str, tuple[str, ...]]) -> LabelSet:
        return LabelSet(
            name,
            names=names,
            descriptions={row[0]: row[2] for row in rows},
            codes=codes,
            readers=("challenge",),
            databases=("Chapman-Shaoxing-Ningbo",),
            known_codes=frozenset(acronyms),
        )

    # Parity with the published columns: a substring test where an equality was meant.
    published = {code: tuple(name for name in names if name in acronym) for code, acronym in acronyms.items()}
    return [make("csn", {row[1]: (row[0],) for row in rows}), make("csn_published", published)]


# ---------------------------------------------------------------------------------------------------------- CODE-15%

_CODE15 = {
    "1dAVb": "first degree AV block",
    "RBBB": "right bundle branch block",
    "LBBB": "left bundle branch block",
    "SB": "sinus bradycardia",
    "AF": "atrial fibrillation",
    "ST": "sinus tachycardia",
}


def _code15() -> LabelSet:
    """The six abnormalities of CODE-15% (Ribeiro et al., 2021); exams without any of them are included."""
    return LabelSet(
        "code15",
        names=tuple(_CODE15),
        descriptions=_CODE15,
        codes={name: (name,) for name in _CODE15},
        readers=("code15",),
        exclude_unlabeled=False,
    )


LABEL_SETS: Mapping[str, LabelSet] = {
    label_set.name: label_set for label_set in (*_ptbxl_label_sets(), _cpsc9(), *_csn_label_sets(), _code15())
}
"""All label sets by name."""


LABEL_MAPS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    # All but one have the same name in both.
    "ptbxl-cpsc9": {name: (name,) for name, *_ in _CPSC9} | {"VPC": ("PVC",)},
    # Chapman's bundle branch blocks may be incomplete, and its infarctions may have any location.
    "ptbxl-csn": {
        "AQW": ("QWAVE",),
        "SR": ("SR",),
        "WPW": ("WPW",),
        "2AVB": ("2AVB",),
        "VB": ("BIGU",),
        "SA": ("SARRH",),
        "VPB": ("PVC",),
        "TWO": ("INVT",),
        "APB": ("PAC",),
        "PRIE": ("LPR",),
        "AF": ("AFLT",),
        "QTIE": ("LNGQT",),
        "LBBB": ("CLBBB", "ILBBB"),
        "SVT": ("SVTAC",),
        "RBBB": ("CRBBB", "IRBBB"),
        "1AVB": ("1AVB",),
        "STDD": ("STD",),
        "MI": ("IMI", "ASMI", "ILMI", "AMI", "ALMI", "LMI", "IPLMI", "IPMI", "PMI"),
        "AFIB": ("AFIB",),
        "RVH": ("RVH",),
        "LVH": ("LVH",),
        "ST": ("STACH",),
    },
}
"""
For each label of one source, the equivalent statements of another, for `clear-hug evaluate --map`.

The statements are those of `ptbxl_all`. A label is included only if both sources define it in the same words. Labels
of degree and cause, which sources grade differently, are not.
"""
