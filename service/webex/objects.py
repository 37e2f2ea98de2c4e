"""Webex's objects as types: what goes into a request body and what comes back, by Webex's own names.

Keys and types are those of Cisco's OpenAPI, and a class has the name of its schema there wherever it has one; a contract
test compares them. Nothing is checked or converted at run time: an answer is the decoded JSON, so fields that Cisco
adds are kept and values that Cisco adds to an enumeration (plain ``str`` here) pass. Every key may be missing.
Times are text in ISO 8601. Several objects hold personal data or secrets: none belongs in a log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict


class Link(TypedDict, total=False):
    """Another operation on the same thing."""

    rel: str
    href: str
    method: str


class CallInNumber(TypedDict, total=False):
    """A number to dial; ``tollType`` is ``toll`` or ``tollFree``."""

    label: str
    callInNumber: str
    tollType: str


class Telephony(TypedDict, total=False):
    """How to join by phone."""

    accessCode: str
    callInNumbers: list[CallInNumber]
    links: list[Link]


class MeetingOptions(TypedDict, total=False):
    """What a meeting offers; ``noteType`` is ``allowAll`` or ``allowOne``."""

    enabledChat: bool
    enabledVideo: bool
    enabledPolling: bool
    enabledNote: bool
    noteType: str
    enabledFileTransfer: bool
    enabledUCFRichMedia: bool


class AttendeePrivileges(TypedDict, total=False):
    """What those who attend may do."""

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


class AudioConnectionOptions(TypedDict, total=False):
    """How people hear one another."""

    audioConnectionType: str
    enabledTollFreeCallIn: bool
    enabledGlobalCallIn: bool
    enabledAudienceCallBack: bool
    entryAndExitTone: str
    allowHostToUnmuteParticipants: bool
    allowAttendeeToUnmuteSelf: bool
    muteAttendeeUponEntry: bool


class LiveStreamObject(TypedDict, total=False):
    """Where a meeting is streamed to."""

    destination: str
    rtmpUrl: str
    streamUrl: str
    layoutWithoutSharedContent: str
    layoutWithSharedContent: str
    allowChangeLayoutInMeeting: bool
    followStageLayoutWhenSynced: bool
    resolution: str


class TrackingCode(TypedDict, total=False):
    """A site's own classification of a meeting."""

    name: str
    value: str


class InterpreterObjectForSimultaneousInterpretationOfCreateOrUpdateMeeting(TypedDict, total=False):
    """An interpreter between two languages."""

    languageCode1: str
    languageCode2: str
    email: str
    displayName: str


class InterpreterObjectForSimultaneousInterpretationOfGetOrListMeeting(
    InterpreterObjectForSimultaneousInterpretationOfCreateOrUpdateMeeting, total=False
):
    """An interpreter, with Webex's id."""

    id: str


class SimultaneousInterpretation(TypedDict, total=False):
    """Whether there are interpreters, and who."""

    enabled: bool
    interpreters: list[InterpreterObjectForSimultaneousInterpretationOfGetOrListMeeting]


class SimultaneousInterpretationToCreate(TypedDict, total=False):
    """Whether there are to be interpreters, and who."""

    enabled: bool
    interpreters: list[InterpreterObjectForSimultaneousInterpretationOfCreateOrUpdateMeeting]


# --- the registration form --------------------------------------------------------------------------------------------


class Rule(TypedDict, total=False):
    """Where an answer meets ``condition`` and ``value``, Webex decides by itself: ``approve`` or ``reject``."""

    condition: str
    value: str
    result: str
    matchCase: bool


class OrderedRule(Rule, total=False):
    """A rule and its place; those of standard and of own questions are ordered together."""

    order: int


class StandardRegistrationApproveRule(OrderedRule, total=False):
    """A rule about a standard question, e.g. ``email``."""

    question: str


class OptionToCreate(TypedDict, total=False):
    """A choice of a question."""

    value: str


class Option(OptionToCreate, total=False):
    """A choice of a question, with Webex's id."""

    id: int


class CustomizedQuestionForCreateMeeting(TypedDict, total=False):
    """An own question of the form."""

    question: str
    required: bool
    type: str
    maxLength: int
    options: list[OptionToCreate]
    rules: list[Rule]


class CustomizedQuestionForGetMeeting(TypedDict, total=False):
    """An own question of the form, as Webex shows it."""

    id: int
    question: str
    required: bool
    type: str
    maxLength: int
    options: list[Option]
    rules: list[OrderedRule]


class _Form(TypedDict, total=False):
    # for webinars; in Cisco's text and examples, though its schemas do not have it
    enabledRegistrationId: bool
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


class Registration(_Form, total=False):
    """A registration form. ``autoAcceptRequest``: nobody waits as pending."""

    customizedQuestions: list[CustomizedQuestionForGetMeeting]
    rules: list[StandardRegistrationApproveRule]


class RegistrationOfSeries(Registration, total=False):
    """The form inside a meeting series."""

    maxRegisterNum: int


class RegistrationInList(_Form, total=False):
    """The form inside a listed meeting: without its questions."""

    maxRegisterNum: int


class RegistrationToCreate(_Form, total=False):
    """The form of a new meeting."""

    maxRegisterNum: int
    customizedQuestions: list[CustomizedQuestionForCreateMeeting]
    rules: list[StandardRegistrationApproveRule]


class RegistrationForUpdate(RegistrationToCreate, total=False):
    """The form that replaces another."""

    hostEmail: str


# --- meetings ---------------------------------------------------------------------------------------------------------


class _Settings(TypedDict, total=False):
    """What both sides may say of a meeting. None removes ``agenda``, ``recurrence`` or ``trackingCodes`` in a patch."""

    title: str
    agenda: str | None
    password: str
    start: str
    end: str
    timezone: str
    recurrence: str | None
    enabledAutoRecordMeeting: bool
    allowAnyUserToBeCoHost: bool
    enabledJoinBeforeHost: bool
    enableConnectAudioBeforeHost: bool
    joinBeforeHostMinutes: int
    excludePassword: bool
    publicMeeting: bool
    reminderTime: int
    unlockedMeetingJoinSecurity: str
    sessionTypeId: int
    enabledWebcastView: bool
    panelistPassword: str
    enableAutomaticLock: bool
    automaticLockMinutes: int
    allowFirstUserToBeCoHost: bool
    allowAuthenticatedDevices: bool
    meetingOptions: MeetingOptions
    attendeePrivileges: AttendeePrivileges
    integrationTags: list[str]
    enabledBreakoutSessions: bool
    trackingCodes: list[TrackingCode] | None
    enabledAudioWatermark: bool
    enabledVisualWatermark: bool
    visualWatermarkOpacity: int
    audioConnectionOptions: AudioConnectionOptions
    requireAttendeeLogin: bool
    restrictToInvitees: bool
    enabledLiveStream: bool
    liveStream: LiveStreamObject


class _Meeting(_Settings, total=False):
    id: str
    meetingNumber: str
    phoneAndVideoSystemPassword: str
    meetingType: str
    state: str
    hostDidJoin: bool
    attendeeDidJoin: bool
    hostUserId: str
    hostDisplayName: str
    hostEmail: str
    hostKey: str
    siteUrl: str
    webLink: str
    sipAddress: str
    dialInIpAddress: str
    roomId: str
    scheduledType: str
    phoneAndVideoSystemPanelistPassword: str
    telephony: Telephony
    simultaneousInterpretation: SimultaneousInterpretation
    links: list[Link]


class MeetingSeriesObject(_Meeting, total=False):
    """What creating and getting a meeting answer, whatever ``meetingType`` it is."""

    registerLink: str
    registration: RegistrationOfSeries


class MeetingObjectForListMeeting(_Meeting, total=False):
    """What listing and changing meetings answer: a series, an occurrence or an instance (``meetingType``)."""

    meetingSeriesId: str
    scheduledMeetingId: str
    isModified: bool
    hasChat: bool
    hasRecording: bool
    hasTranscription: bool
    hasClosedCaption: bool
    hasPolls: bool
    hasQA: bool
    hasSlido: bool
    hasRegistration: bool
    hasRegistrants: bool
    hasPostEventSurvey: bool
    registration: RegistrationInList


class InviteeObjectForCreateMeeting(TypedDict, total=False):
    """Somebody to invite; at most a thousand."""

    email: str
    displayName: str
    coHost: bool
    panelist: bool


class PreMeetingBreakoutSessionWithoutIdObject(TypedDict, total=False):
    """A breakout session, and the addresses of those in it."""

    name: str
    invitees: list[str]


class CreateMeetingObject(_Settings, total=False):
    """A new meeting; ``title``, ``start`` and ``end`` are required."""

    adhoc: bool
    roomId: str
    templateId: str
    scheduledType: str
    invitees: list[InviteeObjectForCreateMeeting]
    sendEmail: bool
    hostEmail: str
    siteUrl: str
    registration: RegistrationToCreate
    simultaneousInterpretation: SimultaneousInterpretationToCreate
    breakoutSessions: list[PreMeetingBreakoutSessionWithoutIdObject]


class PatchMeetingObject(_Settings, total=False):
    """What is to change. ``hostEmail`` says whose meeting it is; it makes nobody else the host."""

    sendEmail: bool
    hostEmail: str


class UpdateMeetingObject(_Settings, total=False):
    """What is to change, for PUT. The registration form is changed elsewhere."""

    sendEmail: bool
    hostEmail: str


class JoinMeetingObject(TypedDict, total=False):
    """Whose links: exactly one of ``meetingId``, ``meetingNumber``, ``webLink``; valid ``expirationMinutes`` (1-60)."""

    meetingId: str
    meetingNumber: str
    webLink: str
    joinDirectly: bool
    email: str
    displayName: str
    password: str
    expirationMinutes: int
    registrationId: str
    hostEmail: str
    createJoinLinkAsWebLink: bool
    createStartLinkAsWebLink: bool


class JoinMeetingLinkObject(TypedDict, total=False):
    """Links that need no log-in and no password: whoever has one is in. ``startLink`` makes its user the host."""

    startLink: str
    joinLink: str
    expiration: str


class EndMeetingRequestObject(TypedDict, total=False):
    """Why a meeting is ended."""

    reason: str


#: The query of "List Meetings"; ``from`` is no name in Python, hence this form.
ListMeetingsQuery = TypedDict(
    "ListMeetingsQuery",
    {
        "meetingNumber": str,
        "webLink": str,
        "roomId": str,
        "meetingSeriesId": str,
        "max": int,
        "from": str,
        "to": str,
        "meetingType": str,
        "state": str,
        "scheduledType": str,
        "isModified": bool,
        "hasChat": bool,
        "hasRecording": bool,
        "hasTranscription": bool,
        "hasSummary": bool,
        "hasClosedCaption": bool,
        "hasPolls": bool,
        "hasQA": bool,
        "hasSlido": bool,
        "current": bool,
        "hostEmail": str,
        "siteUrl": str,
        "integrationTag": str,
    },
    total=False,
)


# --- registrants ------------------------------------------------------------------------------------------------------


class AnswerForCustomizedQuestion(TypedDict, total=False):
    """An answer; ``optionId`` where there were choices."""

    optionId: int
    answer: str


class CustomizedRegistrant(TypedDict, total=False):
    """The answers to one of the form's own questions."""

    questionId: int
    answers: list[AnswerForCustomizedQuestion]


class _Person(TypedDict, total=False):
    firstName: str
    lastName: str
    email: str
    jobTitle: str
    companyName: str
    address1: str
    address2: str
    city: str
    state: str
    zipCode: int
    countryRegion: str
    workPhone: str
    fax: str
    customizedQuestions: list[CustomizedRegistrant]


class RegistrantFormObject(_Person, total=False):
    """Somebody to register; ``firstName``, ``lastName`` and ``email`` are required."""

    sendEmail: bool


class RegistrantForms(TypedDict, total=False):
    """Many to register at once."""

    items: list[RegistrantFormObject]


class RegistrantCreateResponse(_Person, total=False):
    """Somebody who was registered; ``status`` is ``approved``, ``pending`` or ``rejected``."""

    id: str
    status: str
    registrationTime: str


class Registrant(RegistrantCreateResponse, total=False):
    """A registrant as a list shows it. ``registrationId``: only for webinars that have it switched on."""

    sourceId: str
    registrationId: str


class Registrants(TypedDict, total=False):
    """One of a batch."""

    id: str


class RegistrantBatch(TypedDict, total=False):
    """Whom to approve, reject, cancel or delete, and whether Webex tells them (it does unless told not to)."""

    sendEmail: bool
    registrants: list[Registrants]


class QueryRegistrants(TypedDict, total=False):
    """Whom to find; ``emails`` is required."""

    status: str
    orderType: str
    orderBy: str
    emails: list[str]


class ListRegistrantsQuery(TypedDict, total=False):
    """The query of "List Meeting Registrants"; the two times are at most 90 days apart."""

    max: int
    hostEmail: str
    current: bool
    email: str
    registrationTimeFrom: str
    registrationTimeTo: str


# --- webhooks, guests, Service Apps -----------------------------------------------------------------------------------


class WebhookForm(TypedDict, total=False):
    """A new webhook; ``name``, ``targetUrl``, ``resource`` and ``event`` are required."""

    name: str
    targetUrl: str
    resource: str
    event: str
    filter: str
    secret: str
    ownedBy: str


class WebhookUpdate(TypedDict, total=False):
    """What may change of a webhook; ``status`` only to ``active``. ``name`` and ``targetUrl`` are required."""

    name: str
    targetUrl: str
    secret: str
    ownedBy: str
    status: str


class Webhook(TypedDict, total=False):
    """A webhook, its secret included. Webex delivers to it only while ``status`` is ``active``."""

    id: str
    name: str
    targetUrl: str
    resource: str
    event: str
    filter: str
    secret: str
    status: str
    created: str
    ownedBy: str


class GuestForm(TypedDict, total=False):
    """A guest; ``subject`` is our own name for them, always the same for the same guest."""

    subject: str
    displayName: str


class Guest(TypedDict, total=False):
    """A guest and their token, valid for ``expiresIn`` seconds."""

    id: str
    subject: str
    displayName: str
    email: str
    accessToken: str
    expiresIn: int


class ServiceAppTokenForm(TypedDict, total=False):
    """Which Service App wants a token for which organisation. All three are required."""

    clientId: str
    clientSecret: str
    targetOrgId: str


class ServiceAppToken(TypedDict, total=False):
    """A token pair; both lifetimes in seconds."""

    access_token: str
    expires_in: int
    refresh_token: str
    refresh_token_expires_in: int
    token_type: str


#: ``Operation.body`` → its type.
BODIES: Mapping[str, type[Mapping[str, Any]]] = {
    "CreateMeetingObject": CreateMeetingObject,
    "PatchMeetingObject": PatchMeetingObject,
    "UpdateMeetingObject": UpdateMeetingObject,
    "JoinMeetingObject": JoinMeetingObject,
    "EndMeetingRequestObject": EndMeetingRequestObject,
    "RegistrationForUpdate": RegistrationForUpdate,
    "RegistrantFormObject": RegistrantFormObject,
    "RegistrantForms": RegistrantForms,
    "RegistrantBatch": RegistrantBatch,
    "queryRegistrants": QueryRegistrants,
    "WebhookForm": WebhookForm,
    "WebhookUpdate": WebhookUpdate,
    "GuestForm": GuestForm,
    "ServiceAppTokenForm": ServiceAppTokenForm,
}
