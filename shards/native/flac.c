/* FLAC of 16 bits (RFC 9639), for clips of known length: everything is checked, and whatever is not as expected is
   refused as a whole, so that another decoder may say what it thinks of it. Residuals are in residual.c,
   checksums in flac_crc.c. */
#include "flac.h"

#include <stdlib.h>
#include <string.h>

#define MAX_CHANNELS 8
#define BITS 16
#define PADDING 1
#define COMMENTS 4

typedef struct {
    size_t block; /* samples per channel */
    unsigned assignment;
    int by_samples; /* what `number` counts: samples before it, else frames */
    uint64_t number;
} Frame;

static int all_within(const int32_t *s, size_t count, unsigned bits)
{
    uint32_t outside = 0;
    for (size_t i = 0; i < count; i++)
        outside |= ((uint32_t)s[i] + ((uint32_t)1 << (bits - 1))) >> bits;
    return !outside;
}

static int decode_subframe(Reader *r, int32_t *s, size_t block, unsigned bits)
{
    static const int8_t fixed[5][4] = {{0}, {1}, {2, -1}, {3, -3, 1}, {4, -6, 4, -1}};
    unsigned head = take(r, 8), type = head >> 1 & 63;
    if (head >> 7)
        return 0;
    unsigned wasted = 0;
    if (head & 1) {
        int64_t zeros = take_unary(r);
        if (zeros < 0 || zeros + 1 >= bits)
            return 0;
        wasted = (unsigned)zeros + 1;
        bits -= wasted;
    }
    Predictor predictor = {0, 0, 0, {0}};
    if (type == 0) {
        int32_t value = take_signed(r, bits);
        for (size_t i = 0; i < block; i++)
            s[i] = value;
    } else if (type == 1) {
        for (size_t i = 0; i < block; i++)
            s[i] = take_signed(r, bits);
    } else if ((type >= 8 && type <= 12) || type >= 32) {
        predictor.order = type >= 32 ? type - 31 : type - 8;
        if (predictor.order >= block)
            return 0;
        for (unsigned i = 0; i < predictor.order; i++)
            s[i] = take_signed(r, bits);
        if (type >= 32) {
            unsigned precision = take(r, 4) + 1;
            int32_t shift = take_signed(r, 5);
            if (precision > 15 || shift < 0)
                return 0;
            predictor.shift = (unsigned)shift;
            for (unsigned i = 0; i < predictor.order; i++)
                predictor.coefficients[i] = take_signed(r, precision);
        } else {
            for (unsigned i = 0; i < predictor.order; i++)
                predictor.coefficients[i] = fixed[predictor.order][i];
        }
        uint32_t gain = 0;
        for (unsigned i = 0; i < predictor.order; i++)
            gain += (uint32_t)llabs(predictor.coefficients[i]);
        predictor.is_narrow = (uint64_t)gain << (bits - 1) <= INT32_MAX;
        if (!decode_residual(r, s, block, &predictor))
            return 0;
    } else {
        return 0;
    }
    /* Beyond its range a sample may have wrapped on the way. */
    if (overrun(r) || !all_within(s, block, bits))
        return 0;
    if (wasted)
        for (size_t i = 0; i < block; i++)
            s[i] = (int32_t)((uint32_t)s[i] << wasted);
    return 1;
}

/* Bytes of the header at `p`, or 0 where it is not one of such a frame. */
static size_t parse_header(const unsigned char *p, size_t size, uint32_t sample_rate, unsigned channels, Frame *frame)
{
    static const uint32_t rates[12] = {0,     88200, 176400, 192000, 8000,  16000,
                                       22050, 24000, 32000,  44100,  48000, 96000};
    unsigned char padded[24] = {0};
    memcpy(padded, p, size < sizeof padded - 8 ? size : sizeof padded - 8);
    unsigned block_code = padded[2] >> 4, rate_code = padded[2] & 15, size_code = padded[3] >> 1 & 7;
    frame->assignment = padded[3] >> 4;
    if (padded[0] != 0xff || (padded[1] & 0xfe) != 0xf8 || (padded[3] & 1) || (size_code != 0 && size_code != 4))
        return 0;
    if (frame->assignment < 8 ? frame->assignment + 1 != channels : channels != 2 || frame->assignment > 10)
        return 0;
    /* The number of the frame or of its first sample, spelled as UTF-8 spells larger numbers. */
    unsigned more = 0;
    while (more < 7 && padded[4] & 128 >> more)
        more++;
    if (more == 1 || more == 7) /* seven bytes are for numbers that no clip comes to */
        return 0;
    frame->by_samples = padded[1] & 1;
    frame->number = padded[4] & 127u >> more;
    size_t at = 5;
    for (; more > 1; more--) {
        if ((padded[at] & 0xc0) != 0x80)
            return 0;
        frame->number = frame->number << 6 | (padded[at++] & 63);
    }
    if (block_code == 0)
        return 0;
    else if (block_code == 1)
        frame->block = 192;
    else if (block_code <= 5)
        frame->block = (size_t)576 << (block_code - 2);
    else if (block_code == 6)
        frame->block = (size_t)padded[at++] + 1;
    else if (block_code == 7) {
        frame->block = ((size_t)padded[at] << 8 | padded[at + 1]) + 1;
        at += 2;
    } else
        frame->block = (size_t)256 << (block_code - 8);
    uint32_t rate = rate_code < 12 ? rates[rate_code] : 0;
    if (rate_code == 0)
        rate = sample_rate;
    else if (rate_code == 12)
        rate = 1000 * (uint32_t)padded[at++];
    else if (rate_code >= 13) {
        rate = ((uint32_t)padded[at] << 8 | padded[at + 1]) * (rate_code == 14 ? 10 : 1);
        at += 2;
    }
    if (rate_code == 15 || rate != sample_rate || at >= size)
        return 0;
    return flac_crc8(padded, at) == padded[at] ? at + 1 : 0;
}

static void undo_stereo(int32_t *first, int32_t *second, size_t block, unsigned assignment)
{
    for (size_t i = 0; i < block; i++) {
        int32_t a = first[i], b = second[i];
        if (assignment == 8) {
            second[i] = a - b;
        } else if (assignment == 9) {
            first[i] = a + b;
        } else {
            int32_t twice = a * 2 + (b & 1);
            first[i] = (twice + b) >> 1;
            second[i] = (twice - b) >> 1;
        }
    }
}

/* Bytes of the frame at `bytes`, or 0. `pcm`: room for `max_block` samples of each channel. */
static size_t decode_frame(const unsigned char *bytes, size_t size, uint32_t sample_rate, unsigned channels,
                           size_t max_block, int32_t *pcm, Frame *frame)
{
    size_t header = parse_header(bytes, size, sample_rate, channels, frame);
    if (!header || frame->block > max_block)
        return 0;
    Reader r = {bytes, size, header, 0, 0};
    unsigned side = frame->assignment == 9 ? 0 : frame->assignment >= 8 ? 1 : MAX_CHANNELS;
    for (unsigned channel = 0; channel < channels; channel++)
        if (!decode_subframe(&r, pcm + channel * max_block, frame->block, BITS + (channel == side)))
            return 0;
    uint32_t padding = take(&r, r.bits % 8); /* all that is loaded ends with a byte */
    size_t end = (r.at * 8 - r.bits) / 8;
    if (padding || end + 2 > size || flac_crc16(bytes, end) != ((unsigned)bytes[end] << 8 | bytes[end + 1]))
        return 0;
    if (side < MAX_CHANNELS) {
        undo_stereo(pcm, pcm + max_block, frame->block, frame->assignment);
        if (!all_within(pcm, frame->block, BITS) || !all_within(pcm + max_block, frame->block, BITS))
            return 0;
    }
    return end + 2;
}

/* Whether these are comments of which there is none, behind the name of the encoder. */
static int has_no_comment(const unsigned char *p, size_t length)
{
    size_t name = length - 8;
    return length >= 8 && p[0] == (name & 255) && p[1] == (name >> 8 & 255) && p[2] == name >> 16 && !p[3] &&
           !(p[length - 4] | p[length - 3] | p[length - 2] | p[length - 1]);
}

/* Bytes before the first frame, and the largest block that the stream says it has; or 0. */
static size_t parse_metadata(const unsigned char *p, size_t size, uint32_t sample_rate, unsigned channels,
                             size_t samples, size_t *max_block)
{
    if (size < 42 || memcmp(p, "fLaC", 4) || (p[4] & 127) != 0 || p[5] || p[6] || p[7] != 34)
        return 0;
    uint64_t stated = load_big_endian(p + 18); /* rate 20, channels - 1 3, bits - 1 5, samples 36 */
    if (stated != ((uint64_t)sample_rate << 44 | (uint64_t)(channels - 1) << 41 | (uint64_t)(BITS - 1) << 36 | samples))
        return 0;
    *max_block = (size_t)p[10] << 8 | p[11];
    int is_last = p[4] >> 7;
    size_t at = 42;
    while (!is_last) {
        if (size - at < 4)
            return 0;
        size_t length = (size_t)p[at + 1] << 16 | (size_t)p[at + 2] << 8 | p[at + 3];
        unsigned kind = p[at] & 127;
        is_last = p[at] >> 7;
        at += 4;
        /* libsndfile reads others, too: whether it would refuse them is not known here. */
        if (length > size - at || !(kind == PADDING || (kind == COMMENTS && has_no_comment(p + at, length))))
            return 0;
        at += length;
    }
    return at;
}

int decode_flac(const unsigned char *bytes, size_t size, uint32_t sample_rate, unsigned channels, size_t samples,
                const PcmOut *out)
{
    size_t max_block = 0, done = 0;
    if (channels < 1 || channels > MAX_CHANNELS || sample_rate >> 20 || samples < 1 || (uint64_t)samples >> 36)
        return 0;
    size_t at = parse_metadata(bytes, size, sample_rate, channels, samples, &max_block);
    if (!at || !max_block)
        return 0;
    int32_t *pcm = malloc(max_block * channels * sizeof *pcm);
    if (!pcm)
        return 0;
    while (done < samples) {
        Frame frame;
        size_t length = decode_frame(bytes + at, size - at, sample_rate, channels, max_block, pcm, &frame);
        if (!length || frame.block > samples - done)
            break;
        /* libsndfile puts something in the place of frames that their numbers say are missing. */
        if (frame.number * (frame.by_samples ? 1 : max_block) != done)
            break;
        for (unsigned channel = 0; channel < channels; channel++)
            store_pcm(pcm + channel * max_block, frame.block, out, channel, done);
        at += length;
        done += frame.block;
    }
    free(pcm);
    return done == samples && at == size;
}
