/* The checksums of FLAC frames: CRC-8 of the header, CRC-16 of all; highest bit first, from 0. */
#include "flac.h"

static uint8_t crc8_table[256];
static uint16_t crc16_table[16][256];

uint8_t flac_crc8(const unsigned char *p, size_t size)
{
    uint8_t crc = 0;
    for (; size; size--, p++)
        crc = crc8_table[crc ^ *p];
    return crc;
}

unsigned flac_crc16(const unsigned char *p, size_t size)
{
    unsigned crc = 0;
    for (; size >= 16; size -= 16, p += 16)
        crc = crc16_table[15][p[0] ^ crc >> 8] ^ crc16_table[14][p[1] ^ (crc & 255)] ^ crc16_table[13][p[2]] ^
              crc16_table[12][p[3]] ^ crc16_table[11][p[4]] ^ crc16_table[10][p[5]] ^ crc16_table[9][p[6]] ^
              crc16_table[8][p[7]] ^ crc16_table[7][p[8]] ^ crc16_table[6][p[9]] ^ crc16_table[5][p[10]] ^
              crc16_table[4][p[11]] ^ crc16_table[3][p[12]] ^ crc16_table[2][p[13]] ^ crc16_table[1][p[14]] ^
              crc16_table[0][p[15]];
    for (; size; size--, p++)
        crc = (crc << 8 & 0xffff) ^ crc16_table[0][crc >> 8 ^ *p];
    return crc;
}

void prepare_flac_crc(void)
{
    for (unsigned i = 0; i < 256; i++) {
        unsigned crc8 = i, crc = i << 8;
        for (unsigned bit = 0; bit < 8; bit++) {
            crc8 = (crc8 << 1 ^ (crc8 >> 7 ? 0x07 : 0)) & 255;
            crc = (crc << 1 ^ (crc >> 15 ? 0x8005 : 0)) & 0xffff;
        }
        crc8_table[i] = (uint8_t)crc8;
        crc16_table[0][i] = (uint16_t)crc;
    }
    for (unsigned k = 1; k < 16; k++)
        for (unsigned i = 0; i < 256; i++)
            crc16_table[k][i] = (uint16_t)(crc16_table[k - 1][i] << 8 ^ crc16_table[0][crc16_table[k - 1][i] >> 8]);
}
