"""Request bodies with the types of Cisco's OpenAPI; what a type cannot say is in the modules that use them.

Source: "Webex Meetings" with Webhooks, Guest Management and Service Apps. Names are Webex's; an unknown field is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Required, TypedDict

import msgspec

from service.sandbox.refusals import invalid

Number = int | float

MEETING_TYPES = ("meetingSeries", "scheduledMeeting", "meeting")
STATES = ("active", "scheduled", "ready", "lobby", "inProgress", "ended", "missed", "expired")
SCHEDULED_TYPES = ("meeting", "webinar", "personalRoomMeeting")

_Condition = Literal["contains", "notContains", "beginsWith", "endsWith", "equals", "notEquals"]
_Result = Literal["approve", "reject"]
_StandardQuestion = Literal[
    "lastName",
    "email",
    "jobTitle",
    "companyName",
    "address1",
    "address2",
    "city",
    "state",
    "zipCode",
    "countryRegion",
    "workPhone",
    "fax",
]


class Rule(TypedDict, total=False):
    question: Required[_StandardQuestion]
    condition: Required[_Condition]
    value: Required[str]
    result: Required[_Result]
    matchCase: bool
    order: Required[Number]


class QuestionRule(TypedDict, total=False):
    condition: Required[_Condition]
    value: Required[str]
    result: Required[_Result]
    matchCase: bool
    order: Number


class Option(TypedDict):
    """One of the answers that a question offers."""

    value: str


class Question(TypedDict, total=False):
    question: Required[str]
    required: bool
    type: Required[Literal["singleLineTextBox", "multiLineTextBox", "checkbox", "dropdownList", "radioButtons"]]
    maxLength: Number
    options: list[Option]
    rules: list[QuestionRule]


class RegistrationForm(TypedDict, total=False):
    hostEmail: str
    autoAcceptRequest: bool
    requireFirstName: bool
    requireLastName: bool
    requireEmail: bool
    requireJobTitle: bool
    requireCompanyName: bool
    requireAddress1: bool
    requireAddress2: bool
    requireCity: bool
    requireState: bool
    requireZipCode: bool
    requireCountryRegion: bool
    requireWorkPhone: bool
    requireFax: bool
    maxRegisterNum: Number
    customizedQuestions: list[Question]
    rules: list[Rule]


class _MeetingOptions(TypedDict, total=False):
    enabledChat: bool
    enabledVideo: bool
    enabledPolling: bool
    enabledNote: bool
    noteType: Literal["allowAll", "allowOne"]
    enabledFileTransfer: bool
    enabledUCFRichMedia: bool


class _AttendeePrivileges(TypedDict, total=False):
    enabledShareContent: bool
    enabledSaveDocument: bool
    enabledPrintDocument: bool
    enabledAnnotate: bool
    enabledViewParticipantList: bool
    enabledViewThumbnails: bool
    enabledRemoteControl: bool
    enabledViewAnyDocument: bool
    enabledViewAnyPage: bool
    enabledContactOperatorPrivately: bool
    enabledChatHost: bool
    enabledChatPresenter: bool
    enabledChatOtherParticipants: bool


class _AudioConnectionOptions(TypedDict, total=False):
    audioConnectionType: Literal["webexAudio", "VoIP", "other", "none"]
    enabledTollFreeCallIn: bool
    enabledGlobalCallIn: bool
    enabledAudienceCallBack: bool
    entryAndExitTone: Literal["beep", "announceName", "noTone"]
    allowHostToUnmuteParticipants: bool
    allowAttendeeToUnmuteSelf: bool
    muteAttendeeUponEntry: bool


class _LiveStream(TypedDict, total=False):
    destination: Required[str]
    rtmpUrl: Required[str]
    streamUrl: Required[str]
    layoutWithoutSharedContent: Literal["grid", "stack", "focus"]
    layoutWithSharedContent: Literal["stack", "focusedContentWithActiveSpeaker", "focusedContent"]
    allowChangeLayoutInMeeting: bool
    followStageLayoutWhenSynced: bool
    resolution: str


class _Invitee(TypedDict, total=False):
    email: Required[str]
    displayName: str
    coHost: bool
    panelist: bool


class _Interpreter(TypedDict, total=False):
    languageCode1: Required[str]
    languageCode2: Required[str]
    email: str
    displayName: str


class _Interpretation(TypedDict, total=False):
    enabled: Required[bool]
    interpreters: list[_Interpreter]


class _BreakoutSession(TypedDict, total=False):
    name: Required[str]
    invitees: list[str]


class _TrackingCode(TypedDict):
    name: str
    value: str


#: What create, PUT and PATCH have in common.
class _MeetingFields(TypedDict, total=False):
    title: str
    password: str
    start: str
    end: str
    timezone: str
    enabledAutoRecordMeeting: bool
    allowAnyUserToBeCoHost: bool
    enabledJoinBeforeHost: bool
    enableConnectAudioBeforeHost: bool
    joinBeforeHostMinutes: Number
    excludePassword: bool
    publicMeeting: bool
    reminderTime: Number
    unlockedMeetingJoinSecurity: Literal["allowJoin", "allowJoinWithLobby", "blockFromJoin"]
    sessionTypeId: Number
    enabledWebcastView: bool
    panelistPassword: str
    enableAutomaticLock: bool
    automaticLockMinutes: Number
    allowFirstUserToBeCoHost: bool
    allowAuthenticatedDevices: bool
    sendEmail: bool
    hostEmail: str
    meetingOptions: _MeetingOptions
    attendeePrivileges: _AttendeePrivileges
    integrationTags: list[str]
    enabledBreakoutSessions: bool
    enabledAudioWatermark: bool
    enabledVisualWatermark: bool
    visualWatermarkOpacity: Number
    audioConnectionOptions: _AudioConnectionOptions
    requireAttendeeLogin: bool
    restrictToInvitees: bool
    enabledLiveStream: bool
    liveStream: _LiveStream


class NewMeeting(_MeetingFields, total=False):
    """``CreateMeetingObject``; what is required depends, see :mod:`service.sandbox.meetings`."""

    adhoc: bool
    agenda: str
    breakoutSessions: list[_BreakoutSession]
    invitees: list[_Invitee]
    recurrence: str
    registration: RegistrationForm
    roomId: str
    scheduledType: Literal["meeting", "webinar", "personalRoomMeeting"]
    simultaneousInterpretation: _Interpretation
    siteUrl: str
    templateId: str
    trackingCodes: list[_TrackingCode]


class UpdatedMeeting(_MeetingFields, total=False):
    """``UpdateMeetingObject`` of PUT: no ``registration`` in it."""

    agenda: str
    recurrence: str
    trackingCodes: list[_TrackingCode]


class PatchedMeeting(_MeetingFields, total=False):
    """``PatchMeetingObject``: as PUT's, with a null for what a partial update may erase."""

    agenda: str | None
    recurrence: str | None
    trackingCodes: list[_TrackingCode] | None


class Join(TypedDict, total=False):
    meetingId: str
    meetingNumber: str
    webLink: str
    joinDirectly: bool
    email: str
    displayName: str
    password: str
    expirationMinutes: Number
    registrationId: str
    hostEmail: str
    createJoinLinkAsWebLink: bool
    createStartLinkAsWebLink: bool


class End(TypedDict, total=False):
    """``EndMeetingRequestObject``."""

    reason: str


class _Choice(TypedDict, total=False):
    optionId: Number
    answer: Required[str]


class Answers(TypedDict):
    """What somebody answered to one question."""

    questionId: Number
    answers: list[_Choice]


class Registrant(TypedDict, total=False):
    firstName: Required[str]
    lastName: Required[str]
    email: Required[str]
    sendEmail: bool
    jobTitle: str
    companyName: str
    address1: str
    address2: str
    city: str
    state: str
    zipCode: Number
    countryRegion: str
    workPhone: str
    fax: str
    customizedQuestions: list[Answers]


class BulkInsert(TypedDict):
    """The body of ``registrants/bulkInsert``."""

    items: list[Registrant]


class _Entry(TypedDict):
    id: str


class Batch(TypedDict, total=False):
    """The body of approve, reject, cancel and bulkDelete."""

    sendEmail: bool
    registrants: Required[list[_Entry]]


class Query(TypedDict, total=False):
    emails: Required[list[str]]
    status: Literal["approved", "pending", "rejected"]
    orderType: Literal["DESC", "ASC"]
    orderBy: Literal["firstName", "lastName", "status", "email"]


_Resource = Literal[
    "attachmentActions",
    "dataSources",
    "memberships",
    "messages",
    "rooms",
    "meetings",
    "recordings",
    "convergedRecordings",
    "meetingParticipants",
    "meetingTranscripts",
    "telephony_calls",
    "telephony_conference",
    "telephony_mwi",
    "uc_counters",
    "serviceApp",
    "adminBatchJobs",
]
#: ``all`` is in the Webhooks guide; the OpenAPI's enumeration leaves it out.
_Event = Literal[
    "all",
    "created",
    "updated",
    "deleted",
    "started",
    "ended",
    "joined",
    "left",
    "migrated",
    "authorized",
    "deauthorized",
    "statusChanged",
]


class NewWebhook(TypedDict, total=False):
    name: Required[str]
    targetUrl: Required[str]
    resource: Required[_Resource]
    event: Required[_Event]
    filter: str
    secret: str
    ownedBy: str


class UpdatedWebhook(TypedDict, total=False):
    name: Required[str]
    targetUrl: Required[str]
    secret: str
    ownedBy: str
    status: Literal["active"]


class Guest(TypedDict):
    """The body of ``guests/token``."""

    subject: str
    displayName: str


class ServiceAppToken(TypedDict):
    """The body of ``applications/{applicationId}/token``."""

    clientId: str
    clientSecret: str
    targetOrgId: str


def checked(body: Mapping[str, Any], schema: Any) -> dict[str, Any]:
    """``body`` without what ``schema`` (one of the above) does not know. Raises Refusal (400) where a type is another."""
    try:
        return dict(msgspec.convert(body, type=schema))
    except msgspec.ValidationError as error:
        raise invalid(f"{error}.") from error
